"""Arrays over a mesh of devices, by two tables.

Beside each model stands the first: patterns of parameter names to logical axes
(`RULES` of `soraxla.models.dit`, …). The second is here: logical axes to mesh axes.
Code that computes names logical axes only, and runs the same with no mesh at all.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from soraxla.core.errors import UserError
from soraxla.core.trees import named_leaves
from soraxla.core.types import PackedBatch

# From the outermost: neighbours along `tensor`, which talks most, are closest.
AXES = ("data", "fsdp", "context", "tensor")

# Parameters are cut along `context` too: there is nothing else to cut when one clip is
# sampled on many chips, and in training those chips reduce one gradient anyway.
MESH_AXES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "tokens": ("context",),
    "text": (),
    "height": ("context",),  # of pictures in the VAE
    "embed": ("fsdp", "context"),
    "heads": ("tensor",),
    "mlp": ("tensor",),
}

_TILE = 16  # rows of a TPU's tile of bf16

LogicalAxes = tuple[str | None, ...]

# A pattern of a parameter's whole name, without the optimizer's prefix, and the axes of
# its dimensions, without the layer axis of stacked blocks. The first match counts.
Rules = Sequence[tuple[str, LogicalAxes]]

_PACKED: dict[str, Any] = {
    "latents": ("batch", "tokens", None),
    "segment_ids": ("batch", "tokens"),
    "token_index": ("batch", "tokens"),
    "positions": ("batch", "tokens", None),
    "condition_mask": ("batch", "tokens"),
    "controls": ("batch", "tokens", None),
    "text": ("batch", "text", None),
    "text_segment_ids": ("batch", "text"),
    "visit": ("batch", None),
    "shift": ("batch", None),
}
PACKED_AXES = PackedBatch(**_PACKED)

# Where a training state keeps moments, which bear their parameters' names.
_OPTIMIZER = "opt."

# Every parameter whole on every device.
WHOLE: Rules = ((r".*", ()),)


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each axis has; together all there are.

    Attributes:
        data: rows are split, parameters are whole on each; None takes the devices that
            are left.
        fsdp: rows and parameters are split; None takes the devices that are left, but,
            where `data` may take some, no more than leave each a whole tile of them.
        context: the tokens of a row, and parameters, are split.
        tensor: heads and the MLP's hidden units are split.
    """

    data: int | None = None
    fsdp: int | None = None
    context: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for name in AXES:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise UserError(f"mesh.{name} is {size}, expected at least 1")


def make_mesh(
    settings: MeshConfig | None = None,
    devices: Sequence[Any] | None = None,
    *,
    width: int | None = None,
) -> Mesh:
    """The mesh of all devices, or of those given.

    Args:
        width: of the model whose parameters are split, see `MeshConfig`.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    settings = settings or MeshConfig()
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    sizes = {name: getattr(settings, name) for name in AXES}
    left = max(1, count // math.prod(n for n in sizes.values() if n))
    if sizes["fsdp"] is None:
        sizes["fsdp"] = left
        if sizes["data"] is None and width is not None:
            sizes["fsdp"] = _of_whole_tiles(left, width // sizes["context"])
        left //= sizes["fsdp"]
    if sizes["data"] is None:
        sizes["data"] = left
    if math.prod(sizes.values()) != count:
        product = " x ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(
            f"the mesh {product} has {math.prod(sizes.values())} devices, but there "
            f"are {count}; change mesh.{', mesh.'.join(AXES)} to multiply to {count}"
        )
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1:
        raise UserError(
            f"{len(slices)} TPU slices were found, expected one: start a run on each"
        )
    # Axes need not be whole axes of the torus.
    placed = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _of_whole_tiles(devices: int, width: int) -> int:
    """The most of the devices that cut a width into tiles' rows; else all of them.

    A TPU's compiler gathers other parts by a sum over all devices, of arrays that are 0
    elsewhere, which sends twice as much.
    """
    fitting = (n for n in range(1, devices + 1) if devices % n == 0)
    return max((n for n in fitting if width % (n * _TILE) == 0), default=devices)


def one_device() -> Mesh:
    """The mesh of the first device alone."""
    return make_mesh(devices=jax.local_devices()[:1])


def host_mesh() -> Mesh:
    """Memory of this host: its CPU alone, or its first device where JAX has no CPU."""
    try:
        devices = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX_PLATFORMS names others only
        devices = jax.local_devices()
    return make_mesh(devices=devices[:1])


def sampling_mesh() -> Mesh:
    """All devices share each row: of one clip there is nothing else to share."""
    return make_mesh(MeshConfig(fsdp=1, context=len(jax.devices())))


def current_mesh() -> AbstractMesh | None:
    """The mesh that is set; None where there is none, or inside a `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or AxisType.Manual in mesh.axis_types else mesh


def split(size: int, logical: str | None, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The mesh axes that cut a dimension: none of them where they do not divide it.

    Heights are cut anyway: clips come in any, and XLA fills the last part up.
    """
    axes = MESH_AXES[logical] if logical else ()
    parts = axis_size(mesh, axes)
    fits = size >= parts if logical == "height" else size % parts == 0
    return axes if fits else ()


def axis_size(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
    """How many parts the axes cut a dimension into."""
    return math.prod(mesh.shape[axis] for axis in axes)


def partition_spec(
    shape: Sequence[int], axes: LogicalAxes, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """How an array of this shape is cut."""
    cut = zip(shape, axes, strict=True)
    return PartitionSpec(*(split(size, axis, mesh) for size, axis in cut))


def set_size(logical: str) -> int:
    """Into how many parts the mesh that is set cuts an axis; 1 without a mesh."""
    mesh = jax.sharding.get_mesh()
    return 1 if mesh.empty else axis_size(mesh, MESH_AXES[logical])


def constrain(x: Any, *axes: str | None) -> Any:
    """`x`, cut by its logical axes; as it is where no mesh is set."""
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(x.shape, axes, mesh))


def param_shardings(abstract: PyTree, rules: Rules, mesh: Mesh) -> PyTree:
    """Of parameters, or of any tree that holds trees of them: a training state.

    Scalars are whole everywhere, and so is what the mesh does not divide.

    Raises:
        UserError: a parameter that no rule matches, or a rule that matches none.
    """
    used: set[str] = set()

    def sharding(name: str, leaf: Any) -> NamedSharding:
        if leaf.ndim == 0:
            return NamedSharding(mesh, PartitionSpec())
        pattern, axes = _rule(name, rules)
        used.add(pattern)
        axes = (None,) * (leaf.ndim - len(axes)) + axes
        return NamedSharding(mesh, partition_spec(leaf.shape, axes, mesh))

    shardings = [sharding(n, leaf) for n, leaf in named_leaves(abstract).items()]
    unused = [pattern for pattern, _ in rules if pattern not in used]
    if unused:
        raise UserError(f"sharding rule {unused[0]!r} matches no parameter; remove it")
    return jax.tree.unflatten(jax.tree.structure(abstract), shardings)


def set_shardings(abstract: PyTree, rules: Rules) -> PyTree:
    """`param_shardings` over the mesh that is set; of the first device without one."""
    mesh = jax.sharding.get_mesh()
    return param_shardings(abstract, rules, one_device() if mesh.empty else mesh)


def cut(tree: PyTree, rules: Rules, mesh: Mesh) -> PyTree:
    """NumPy arrays that every host holds, on the mesh; a device gets its part alone."""

    def placed(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(placed, tree, param_shardings(tree, rules, mesh))


def _rule(name: str, rules: Rules) -> tuple[str, LogicalAxes]:
    for pattern, axes in rules:
        if re.search(rf"(^|\.)({pattern})$", name):
            return pattern, axes
    if name.startswith(_OPTIMIZER):
        return "", ()  # coefficients of its own; they are few
    raise UserError(f"no sharding rule matches parameter {name!r}; add one")


def with_shardings(abstract: PyTree, shardings: PyTree) -> PyTree:
    """The abstract arrays, placed."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        shardings,
    )


def put_rows(batch: PyTree, axes: PyTree, mesh: Mesh) -> Any:
    """Global arrays from this host's rows; every device takes its part.

    Args:
        batch: NumPy arrays of the rows that `own_rows` names, of all hosts' rows.
        axes: logical axes of each array, the first of them "batch".
    """
    parts = axis_size(mesh, MESH_AXES["batch"])
    own = own_rows(parts, mesh)  # of one row a part: the parts of this host

    def put(local: np.ndarray, names: LogicalAxes) -> jax.Array:
        each = len(local) // len(own)
        shape = (each * parts, *local.shape[1:])

        def part(index: Any) -> np.ndarray:
            low, high, _ = index[0].indices(shape[0])
            first = each * own.index(low // each)
            return local[(slice(first, first + high - low), *index[1:])]

        sharding = NamedSharding(mesh, partition_spec(shape, names, mesh))
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(put, batch, axes)


def own_rows(
    rows: int, mesh: Mesh, what: str = "batch_rows", *, process: int | None = None
) -> list[int]:
    """The rows of a batch that a host's devices hold, in order; by default of this one.

    A mesh follows the torus of a TPU slice, so that a host's rows need not follow each
    other: with 2×2 chips a host of an 8×8 slice, they are such as 0, 1, 8 and 9.

    Raises:
        UserError: the devices along `data` and `fsdp` do not divide the rows.
    """
    parts = axis_size(mesh, MESH_AXES["batch"])
    if rows % parts:
        near = parts * max(1, round(rows / parts))
        raise UserError(
            f"{what} is {rows}, which data x fsdp = {parts} devices do not divide; set "
            f"it to {near}, or change mesh.data and mesh.fsdp"
        )
    sharding = NamedSharding(mesh, PartitionSpec(MESH_AXES["batch"]))
    process = jax.process_index() if process is None else process
    held: set[int] = set()
    for device, (part,) in sharding.devices_indices_map((rows,)).items():
        if device.process_index == process:
            held.update(range(*part.indices(rows)))
    return sorted(held)

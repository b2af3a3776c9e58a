"""Placement of arrays on a mesh of devices, by two tables.

Each model has a table from patterns of parameter names to logical axes (`RULES` of
`soraxla.models.dit`, …). This module has the table from logical axes to mesh axes.
Model code names logical axes only, and runs the same without a mesh.
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

# From the outermost: neighbours along `tensor`, which communicates most, are closest.
AXES = ("data", "fsdp", "context", "tensor")

# Parameters are sharded along `context` too: sampling one clip on many chips has no
# other axis, and in training those chips reduce one gradient anyway.
MESH_AXES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "tokens": ("context",),
    "text": (),
    "height": ("context",),  # of frames in the VAE
    "embed": ("fsdp", "context"),
    "heads": ("tensor",),
    "mlp": ("tensor",),
}

_TILE = 16  # rows of a TPU's tile of bf16

LogicalAxes = tuple[str | None, ...]

# Pairs of a pattern, which must match a parameter's whole name without the optimizer's
# prefix, and the axes of its dimensions without the layer axis. The first match counts.
Rules = Sequence[tuple[str, LogicalAxes]]

_PACKED: dict[str, Any] = {
    "latents": ("batch", "tokens", None),
    "segment_ids": ("batch", "tokens"),
    "token_index": ("batch", "tokens"),
    "positions": ("batch", "tokens", None),
    "condition_mask": ("batch", "tokens"),
    "controls": ("batch", "tokens", None),
    "features": ("batch", "tokens", None),
    "text": ("batch", "text", None),
    "text_segment_ids": ("batch", "text"),
    "visit": ("batch", None),
    "shift": ("batch", None),
}
PACKED_AXES = PackedBatch(**_PACKED)

# The training state's prefix of moments, which have the names of their parameters.
_OPTIMIZER = "opt."

# Every device holds every parameter.
REPLICATED: Rules = ((r".*", ()),)


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The number of devices along each axis; their product is the number of devices.

    Attributes:
        data: shards rows and replicates parameters. None takes the devices that the
            other axes leave.
        fsdp: shards rows and parameters. None takes the devices that the other axes
            leave. If `data` is None too, it takes only the most devices for which
            every shard is whole TPU tiles.
        context: shards the tokens of a row, and parameters.
        tensor: shards heads and the MLP's hidden units.
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
    """Returns the mesh of `devices`, by default all of them.

    Args:
        width: the width of the model whose parameters are sharded, see `MeshConfig`.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    settings = settings or MeshConfig()
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = {name: getattr(settings, name) for name in AXES}
    left = max(1, count // math.prod(n for n in sizes.values() if n))
    across = slices if sizes["data"] is None and left % slices == 0 else 1
    left //= across  # slices are joined along `data`, whose traffic is the least
    if sizes["fsdp"] is None:
        sizes["fsdp"] = left
        if sizes["data"] is None and width is not None:
            sizes["fsdp"] = _of_whole_tiles(left, width // sizes["context"])
        left //= sizes["fsdp"]
    if sizes["data"] is None:
        sizes["data"] = left * across
    if math.prod(sizes.values()) != count:
        product = " x ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(
            f"the mesh {product} has {math.prod(sizes.values())} devices, but there "
            f"are {count}; change mesh.{', mesh.'.join(AXES)} to multiply to {count}"
        )
    placed = _placed(tuple(sizes.values()), devices, slices)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _placed(sizes: tuple[int, ...], devices: Sequence[Any], slices: int) -> np.ndarray:
    """Returns the devices in the order of a mesh; several slices are parts of `data`.

    Raises:
        UserError: the slices do not divide `data`.
    """
    # A mesh axis may be part of an axis of the torus.
    if slices == 1:
        return mesh_utils.create_device_mesh(
            sizes, devices, allow_split_physical_axes=True
        )
    data, *others = sizes
    if data % slices:
        raise UserError(
            f"mesh.data is {data}, which {slices} TPU slices do not divide; set it to "
            f"a multiple of {slices}"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *others),
        (slices, *(1 for _ in others)),
        devices,
        allow_split_physical_axes=True,
    )


def _of_whole_tiles(devices: int, width: int) -> int:
    """Returns the most devices that shard a width in whole tiles; all if there is none.

    A TPU's compiler gathers other shards by a sum over all devices, of arrays that are
    0 elsewhere, which sends twice as much.
    """
    fitting = (n for n in range(1, devices + 1) if devices % n == 0)
    return max((n for n in fitting if width % (n * _TILE) == 0), default=devices)


def one_device() -> Mesh:
    """Returns the mesh of the first device only."""
    return make_mesh(devices=jax.local_devices()[:1])


def host_mesh() -> Mesh:
    """Returns the mesh of this host's CPU, or of its first device if JAX has no CPU."""
    try:
        devices = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX_PLATFORMS does not list the CPU
        devices = jax.local_devices()
    return make_mesh(devices=devices[:1])


def sampling_mesh() -> Mesh:
    """Returns the mesh of this host on which all devices share each row of a clip."""
    devices = own_devices()
    return make_mesh(MeshConfig(fsdp=1, context=len(devices)), devices)


def own_devices() -> list[Any]:
    """Returns the devices of this process."""
    return [d for d in jax.devices() if d.process_index == jax.process_index()]


def current_mesh() -> AbstractMesh | None:
    """Returns the current mesh; None if there is none, or inside a `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or AxisType.Manual in mesh.axis_types else mesh


def dividing_axes(
    size: int, logical: str | None, mesh: Mesh | AbstractMesh
) -> tuple[str, ...]:
    """Returns the mesh axes that shard a dimension: none if they do not divide it.

    Heights are sharded even so: clips have any height, and XLA pads the last part.
    """
    axes = MESH_AXES[logical] if logical else ()
    parts = axis_size(mesh, axes)
    fits = size >= parts if logical == "height" else size % parts == 0
    return axes if fits else ()


def axis_size(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
    """Returns the number of parts that the axes divide a dimension into."""
    return math.prod(mesh.shape[axis] for axis in axes)


def partition_spec(
    shape: Sequence[int], axes: LogicalAxes, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Returns the partition of an array of this shape."""
    cut = zip(shape, axes, strict=True)
    return PartitionSpec(*(dividing_axes(size, axis, mesh) for size, axis in cut))


def current_axis_size(logical: str) -> int:
    """Returns the parts that the current mesh divides an axis into; 1 without one."""
    mesh = jax.sharding.get_mesh()
    return 1 if mesh.empty else axis_size(mesh, MESH_AXES[logical])


def constrain(x: Any, *axes: str | None) -> Any:
    """Shards `x` by its logical axes; returns it unchanged if there is no mesh."""
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(x.shape, axes, mesh))


def param_shardings(
    abstract: PyTree, rules: Rules, mesh: Mesh, *, part: bool = False
) -> PyTree:
    """Returns the shardings of parameters, or of a tree that contains trees of them.

    Scalars are replicated, and so is every dimension that the mesh does not divide.

    Args:
        part: the tree may lack parameters, so that rules may match none.

    Raises:
        UserError: no rule matches a parameter, or a rule matches none.
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
    if unused and not part:
        raise UserError(f"sharding rule {unused[0]!r} matches no parameter; remove it")
    return jax.tree.unflatten(jax.tree.structure(abstract), shardings)


def current_shardings(abstract: PyTree, rules: Rules) -> PyTree:
    """Returns `param_shardings` on the current mesh, or on the first device."""
    mesh = jax.sharding.get_mesh()
    return param_shardings(abstract, rules, one_device() if mesh.empty else mesh)


def put_tree(tree: PyTree, rules: Rules, mesh: Mesh, *, part: bool = False) -> PyTree:
    """Puts NumPy arrays that every host holds on the mesh; a device gets its part.

    `part` is that of `param_shardings`.
    """

    def placed(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(placed, tree, param_shardings(tree, rules, mesh, part=part))


def _rule(name: str, rules: Rules) -> tuple[str, LogicalAxes]:
    for pattern, axes in rules:
        if re.search(rf"(^|\.)({pattern})$", name):
            return pattern, axes
    if name.startswith(_OPTIMIZER):
        return "", ()  # the optimizer's coefficients, which are small
    raise UserError(f"no sharding rule matches parameter {name!r}; add one")


def with_shardings(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Returns the abstract arrays with their shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        shardings,
    )


def put_rows(batch: PyTree, axes: PyTree, mesh: Mesh) -> Any:
    """Returns global arrays from this host's rows; every device gets its part.

    Args:
        batch: NumPy arrays of the rows that `host_rows` names, of all hosts' rows.
        axes: logical axes of each array, the first of them "batch".
    """
    parts = axis_size(mesh, MESH_AXES["batch"])
    held = host_rows(parts, mesh)  # this host's parts, as if a part had one row

    def put(local: np.ndarray, names: LogicalAxes) -> jax.Array:
        each = len(local) // len(held)
        shape = (each * parts, *local.shape[1:])

        def part(index: Any) -> np.ndarray:
            low, high, _ = index[0].indices(shape[0])
            first = each * held.index(low // each)
            return local[(slice(first, first + high - low), *index[1:])]

        sharding = NamedSharding(mesh, partition_spec(shape, names, mesh))
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(put, batch, axes)


def put_whole(tree: PyTree, axes: PyTree) -> Any:
    """Puts NumPy arrays that every host holds on the current mesh; see `put_rows`.

    Without a mesh they are put on the default device.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(tree)

    def put(array: np.ndarray, names: LogicalAxes) -> jax.Array:
        sharding = NamedSharding(mesh, partition_spec(array.shape, names, mesh))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree, axes)


def host_rows(
    rows: int, mesh: Mesh, what: str = "batch_rows", *, process: int | None = None
) -> list[int]:
    """Returns the rows of a batch that a host's devices hold, by default this host's.

    Rows are in order. A mesh follows the torus of a TPU slice, so a host's rows need
    not be consecutive: with 2×2 chips, a host of an 8×8 slice has rows such as 0, 1, 8
    and 9.

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

"""Named tensors in safetensors files, and trees loaded from them.

Opening a file reads its header. Values are read on demand, and of a tensor only the
part that the devices of this host need.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open

from soraxla.core.errors import UserError
from soraxla.core.trees import is_stacked, named_leaves, nested, unstacked

SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_DTYPES = ("F32", "F16", "BF16")
_VARIANT = re.compile(r"\.(?:fp16|fp32|bf16|ema|non_ema)\.safetensors$")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file, not read yet.

    `stored[index]`, with a tuple of slices, reads that part in the stored dtype;
    `stored[()]` reads all of it. The file is open only during the read.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # in safetensors' spelling, such as BF16

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        try:
            with safe_open(self.path, framework="numpy") as file:
                return file.get_slice(self.name)[index]
        except (SafetensorError, OSError) as error:
            raise _damaged(self.path, error) from error


def open_tensors(paths: Iterable[Path]) -> dict[str, StoredTensor]:
    """Returns the tensors of the files by name; reads headers only.

    Raises:
        UserError: a file is damaged or a pickle, or two files contain one name.
    """
    found: dict[str, StoredTensor] = {}
    for path in paths:
        for tensor in _headers(path):
            if tensor.name in found:
                raise UserError(
                    f"{path}: tensor {tensor.name!r} is also in "
                    f"{found[tensor.name].path.name}; give one model at a time"
                )
            found[tensor.name] = tensor
    return found


def file_metadata(path: Path) -> dict[str, str]:
    """Returns the free text that a file's header holds, by key.

    Raises:
        UserError: the file is damaged or a pickle.
    """
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _headers(path: Path) -> list[StoredTensor]:
    _refuse_pickle(path)
    found = []
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part = file.get_slice(name)
                shape, dtype = tuple(part.get_shape()), part.get_dtype()
                found.append(
                    StoredTensor(path=path, name=name, shape=shape, dtype=dtype)
                )
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    return found


def _refuse_pickle(path: Path) -> None:
    if path.suffix in _PICKLES:
        raise UserError(
            f"{path}: a pickle, which can run any program when it is read; take the "
            "safetensors files of the same model (Wan's are in the repositories named "
            "…-Diffusers)"
        )


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not a whole safetensors file ({error}); copy or download it again"
    )


def model_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder: those its index names, else all.

    Raises:
        UserError: there is none, or one that the index names is missing.
    """
    indices = [path for path in folder.glob(f"*{INDEX}") if _is_visible(path)]
    # A variant such as X.fp16 has the longer name.
    for index in sorted(indices, key=lambda path: (len(path.name), path.name)):
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(weight_map.values()))
            missing = [
                name
                for name in names
                if Path(name).name != name or not (folder / name).is_file()
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: damaged ({error}); copy it again") from error
        if missing:
            raise UserError(
                f"{folder}: {len(missing)} of {len(names)} files that {index.name} "
                f"names are missing, such as {missing[0]}; download them too"
            )
        return [folder / name for name in names]
    files = weight_files(folder)
    if not files:
        for path in sorted(folder.glob("*")):
            _refuse_pickle(path)
        raise UserError(f"{folder}: no {SUFFIX} files here; give a model's folder")
    return files


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder, without hidden files and variants.

    macOS leaves `._NAME` beside a file. A variant is `X.fp16.safetensors` beside
    `X.safetensors`: the same weights in another type.
    """
    files = {p.name: p for p in folder.glob(f"*{SUFFIX}") if _is_visible(p)}
    return [
        path
        for name, path in sorted(files.items())
        if (plain := _VARIANT.sub(SUFFIX, name)) == name or plain not in files
    ]


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def check_tensors(
    found: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
    where: Path,
) -> None:
    """Raises UserError unless exactly the expected tensors are there, as floats."""
    shapes = [n for n, shape in expected.items() if n in found]
    shapes = [n for n in shapes if found[n].shape != tuple(expected[n])]
    faults = [
        f"{len(names)} {what}, such as {names[0]!r}{more(names[0])}"
        for what, names, more in (
            ("missing", sorted(expected.keys() - found.keys()), lambda n: ""),
            ("unexpected", sorted(found.keys() - expected.keys()), lambda n: ""),
            (
                "mis-shaped",
                shapes,
                lambda n: f" with {found[n].shape}, expected {tuple(expected[n])}",
            ),
        )
        if names
    ]
    check_types(found[n] for n in expected if n in found)
    if faults:
        raise UserError(
            f"{where}: tensors are not this model's: {'; '.join(faults)}; the files "
            "are incomplete or of another model than the configuration says"
        )


def check_types(used: Iterable[StoredTensor]) -> None:
    """Raises UserError for a tensor that has no 16-bit or 32-bit floats."""
    for tensor in used:
        if tensor.dtype not in _DTYPES:
            raise UserError(
                f"{tensor.path}: tensor {tensor.name!r} is {tensor.dtype}, quantised "
                f"or not a weight; expected {', '.join(_DTYPES)}: take the unquantised "
                "files"
            )


def load_tensors(
    read: Callable[[str], Any], abstract: PyTree, shardings: PyTree | None = None
) -> PyTree:
    """Loads the tree of `abstract`, shapes and dtypes, from tensors by unstacked names.

    A host holds its devices' part of one leaf, beside the leaves that are on devices
    already.

    Args:
        read: returns a tensor by name: a `StoredTensor`, an array, or another type that
            slices index.
        shardings: one `jax.sharding.Sharding` per leaf; None is the first device.
    """
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: first, abstract)
    placed = named_leaves(shardings)
    return nested(
        {
            name: _load_leaf(read, name, leaf, placed[name])
            for name, leaf in named_leaves(abstract).items()
        }
    )


Bounds = tuple[tuple[int, int], ...]


def _load_leaf(
    read: Callable[[str], Any], name: str, leaf: Any, sharding: jax.sharding.Sharding
) -> jax.Array:
    """Loads one leaf; a part that several devices hold is read once."""

    def bounds(index: tuple[slice, ...] | None) -> Bounds:
        sides = zip(index or (), leaf.shape, strict=True)
        return tuple(part.indices(side)[:2] for part, side in sides)

    indices = sharding.addressable_devices_indices_map(leaf.shape)
    parts = {
        key: np.empty([stop - start for start, stop in key], leaf.dtype)
        for key in {bounds(index) for index in indices.values()}
    }
    for layer, tensor_name in enumerate(unstacked(name, leaf.shape)):
        wanted = _of_layer(parts, layer) if is_stacked(name) else parts
        if not wanted:
            continue
        tensor = read(tensor_name)
        for key, part in wanted.items():  # the copy casts
            part[...] = tensor[tuple(slice(*ends) for ends in key)]
    return jax.make_array_from_callback(
        leaf.shape, sharding, lambda index: parts[bounds(index)]
    )


def _of_layer(
    parts: Mapping[Bounds, np.ndarray], layer: int
) -> dict[Bounds, np.ndarray]:
    """Returns unstacked views of a layer in the parts that contain it."""
    return {
        tuple(others): part[layer - start, ...]
        for ((start, stop), *others), part in parts.items()
        if start <= layer < stop
    }

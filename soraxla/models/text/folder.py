"""Local Hugging Face folders: `config.json` beside safetensors, in one file or shards.

Tensors are read one by one into the leaves of our tree, and cast as they are read.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import PyTree

from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.core.trees import is_stacked, named_leaves, unstacked
from soraxla.files.tensor_files import (
    StoredTensor,
    check_tensors,
    load_tensors,
    model_files,
    open_tensors,
)
from soraxla.parallel.mesh import REPLICATED, Rules, current_shardings

T = TypeVar("T")

CONFIG = "config.json"

# A tensor's name in a file to its name in a model's table; None if it has none.
Canonical = Callable[[str], str | None]


def read_config(folder: Path, expected: Mapping[str, str]) -> dict[str, Any]:
    """Returns the folder's `config.json`.

    Args:
        expected: each accepted `model_type`, with a repository that has it.

    Raises:
        UserError: there is no such folder, its config is missing or damaged, its
            weights are quantised, or it has another model.
    """
    where = next(iter(expected.values()))
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give one with {CONFIG} and model.safetensors, "
            f"such as a download of {where}"
        )
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{folder}: {CONFIG} is missing; give a folder with {CONFIG} and "
            f"model.safetensors, such as a download of {where}"
        )
    config = _read_json(path)
    kind = config.get("model_type")
    if kind not in expected:
        raise UserError(
            f"{path}: model_type is {kind!r}, expected "
            f"{' or '.join(map(repr, expected))}; give another folder, such as a "
            f"download of {where}"
        )
    if config.get("quantization_config"):
        raise UserError(
            f"{path}: the weights are quantised, expected float32, float16 or "
            f"bfloat16; get them unquantised, such as those of {where}"
        )
    return config


def settings(cls: type[T], config: Mapping[str, Any], folder: Path, **more: Any) -> T:
    """Builds `cls` from its keys in `config` and from `more`.

    Raises:
        UserError: a key has a value of the wrong type.
    """
    fields = {field.name for field in dataclasses.fields(cls)}  # pyright: ignore
    known = {k: v for k, v in config.items() if k in fields}
    try:
        return build(cls, known | more)
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error


def load_params(
    folder: Path,
    abstract: PyTree,
    names: Mapping[str, str],
    canonical: Canonical,
    rules: Rules = REPLICATED,
) -> PyTree:
    """Loads the folder's weights in the shapes and dtypes of `abstract`.

    Leaves under `blocks` are stacked from the file's layers. A dense `kernel` is the
    file's `weight` transposed, a convolution's is first flattened as (C, …, H, W);
    `embedding` and `scale` are `weight` there.

    Args:
        names: our module or leaf to the file's; `{}` is the layer's number.
        rules: sharding rules for the current mesh.

    Raises:
        UserError: a file is damaged, a pickle or missing; tensors are missing,
            unexpected, mis-shaped or quantised. Nothing is loaded then.
    """
    found = {}
    for name, tensor in sorted(open_tensors(model_files(folder)).items()):
        if (own_name := canonical(name)) is not None:
            found[own_name] = tensor
    theirs, expected = {}, {}
    for top, leaf in named_leaves(abstract).items():
        template = _template(top, names)
        for layer, name in enumerate(unstacked(top, leaf.shape)):
            source = theirs[name] = template.format(layer)
            expected[source] = leaf.shape[1:] if is_stacked(top) else leaf.shape
            if top.endswith(".kernel") and source in found:
                found[source] = _transposed(found[source])
    check_tensors(found, expected, folder)
    shardings = current_shardings(abstract, rules)
    return load_tensors(lambda name: found[theirs[name]], abstract, shardings)


def _template(path: str, names: Mapping[str, str]) -> str:
    """Returns the file's name for a leaf, with `{}` for the layer."""
    if path in names:
        return names[path]
    module, _, last = path.rpartition(".")
    return f"{names[module]}.{'bias' if last == 'bias' else 'weight'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Transposed(StoredTensor):
    """A stored matrix (out, in), or convolution (out, C, …), read as (in, out)."""

    flat: bool

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        rows, columns = index
        if self.flat:
            return super().__getitem__((columns, rows)).T
        kernels = super().__getitem__((columns,))
        return kernels.reshape(len(kernels), -1)[:, rows].T


def _transposed(tensor: StoredTensor) -> StoredTensor:
    """Returns the transposed tensor, or one without the axes unchanged."""
    if len(tensor.shape) not in (2, 4, 5):
        return tensor
    ours = (math.prod(tensor.shape[1:]), tensor.shape[0])
    fields = vars(tensor) | {"shape": ours, "flat": len(tensor.shape) == 2}
    return _Transposed(**fields)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); download it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: damaged, not a JSON object; download it again")
    return config

"""Local Hugging Face folders: `config.json` beside safetensors, in one file or shards.

Tensors are read one by one into the leaves of our tree, cast as they come: what is
held is the model as it will run and one tensor.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open

from soraxla.settings import build
from soraxla.trees import named_leaves, nested

T = TypeVar("T")

CONFIG = "config.json"
_INDEX = "*.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_FLOATS = ("F16", "BF16", "F32", "F64")
_STACKED = "blocks."

# A file's name for a tensor to the name in a model's table; None if it is not ours.
Canonical = Callable[[str], str | None]


def read_config(folder: Path, expected: Mapping[str, str]) -> dict[str, Any]:
    """The folder's `config.json`.

    Args:
        expected: the `model_type` looked for, each with a repository that has it.

    Raises:
        ValueError: no such folder, no config or a damaged one, weights that are only
            there as a pickle, quantised weights, or another model's.
    """
    where = next(iter(expected.values()))
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give one with {CONFIG} and model.safetensors, "
            f"such as a download of {where}"
        )
    if not any(folder.glob("*.safetensors")):
        pickle = next((p for kind in _PICKLES for p in sorted(folder.glob(kind))), None)
        if pickle is not None:
            raise ValueError(
                f"{pickle}: a pickle, which can run any program when it is opened, is "
                f"not read; get safetensors instead, such as those of {where}"
            )
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(
            f"{folder}: {CONFIG} is missing; give a folder with {CONFIG} and "
            f"model.safetensors, such as a download of {where}"
        )
    config = _read_json(path)
    kind = config.get("model_type")
    if kind not in expected:
        raise ValueError(
            f"{path}: model_type is {kind!r}, expected "
            f"{' or '.join(map(repr, expected))}; give another folder, such as a "
            f"download of {where}"
        )
    if config.get("quantization_config"):
        raise ValueError(
            f"{path}: the weights are quantised, expected float32, float16 or "
            f"bfloat16; get them unquantised, such as those of {where}"
        )
    return config


def settings(cls: type[T], config: Mapping[str, Any], folder: Path, **more: Any) -> T:
    """The keys of `config` that the dataclass `cls` knows, and `more`.

    Raises:
        ValueError: a key has a value of the wrong type.
    """
    fields = {field.name for field in dataclasses.fields(cls)}  # pyright: ignore
    known = {k: v for k, v in config.items() if k in fields}
    try:
        return build(cls, known | more)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error


def load_params(
    folder: Path, abstract: PyTree, names: Mapping[str, str], canonical: Canonical
) -> PyTree:
    """The folder's weights in the shapes and types of `abstract`.

    Leaves under `blocks` are stacked from the file's layers. A dense `kernel` is the
    file's `weight` turned over, a convolution's flattened as (C, H, W) first;
    `embedding` and `scale` are called `weight` there.

    Args:
        names: our module or leaf to the file's; `{}` stands for the layer.

    Raises:
        ValueError: a file is damaged or missing, tensors are missing, unexpected,
            mis-shaped or quantised; nothing is loaded then.
    """
    files = _tensor_files(folder)
    found = {}
    for name in sorted(files):
        if (known := canonical(name)) is not None:
            found[known] = name
    leaves = named_leaves(abstract)
    plan = {path: _sources(path, leaf, names) for path, leaf in leaves.items()}
    with _Open(folder) as tensors:
        _check(folder, plan, leaves, found, files, tensors)
        params = {
            path: _read_leaf(path, leaves[path], sources, found, files, tensors)
            for path, sources in plan.items()
        }
    return nested(params)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}); download it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: damaged, not a JSON object; download it again")
    return config


def _tensor_files(folder: Path) -> dict[str, str]:
    """Tensor name to file name, from the index or from the only files there are."""
    indices = sorted(folder.glob(_INDEX))
    if indices:
        files = _read_json(indices[0]).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise ValueError(
                f"{indices[0]}: damaged, it has no 'weight_map'; download it again"
            )
        for file in sorted(set(files.values())):
            if Path(file).name != file or not (folder / file).is_file():
                raise ValueError(
                    f"{folder}: {file} is missing, which {indices[0].name} names; "
                    "the download is incomplete, download it again"
                )
        return files
    paths = sorted(folder.glob("*.safetensors"))
    if len(paths) != 1:
        raise ValueError(
            f"{folder}: {len(paths)} .safetensors files and no index, expected "
            "model.safetensors or shards with model.safetensors.index.json; download "
            "it again"
        )
    with _Open(folder) as tensors:
        return dict.fromkeys(tensors[paths[0].name].keys(), paths[0].name)


class _Open:
    """The open safetensors files of a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}

    def __enter__(self) -> "_Open":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.__exit__(None, None, None)

    def __getitem__(self, name: str) -> Any:
        if name not in self.files:
            path = self.folder / name
            try:
                self.files[name] = safe_open(path, framework="numpy").__enter__()
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{path}: not a whole safetensors file ({error}); download it again"
                ) from error
        return self.files[name]


def _sources(path: str, leaf: Any, names: Mapping[str, str]) -> list[str]:
    """The file's tensors that make a leaf: one, or one a layer."""
    module, _, last = path.rpartition(".")
    if path in names:
        template = names[path]
    else:
        kind = "bias" if last == "bias" else "weight"
        template = f"{names[module]}.{kind}"
    if path.startswith(_STACKED):
        return [template.format(i) for i in range(leaf.shape[0])]
    return [template]


def _check(folder, plan, leaves, found, files, tensors) -> None:
    """All of the folder's tensors against the plan, before any is read."""
    missing, misshapen, quantised = [], [], []
    for path, sources in plan.items():
        shape = leaves[path].shape[len(sources) > 1 or path.startswith(_STACKED) :]
        for name in sources:
            if name not in found:
                missing.append(repr(name))
                continue
            view = _view(files, tensors, found[name])
            if view.get_dtype() not in _FLOATS:
                quantised.append(f"{name!r} ({view.get_dtype()})")
            elif not _fits(path, tuple(view.get_shape()), shape):
                misshapen.append(f"{name!r} {view.get_shape()} for {list(shape)}")
    wanted = {name for sources in plan.values() for name in sources}
    unexpected = [repr(found[name]) for name in sorted(found.keys() - wanted)]
    if quantised:
        raise ValueError(
            f"{folder}: tensor {quantised[0]} is quantised, expected float32, float16 "
            "or bfloat16; get the unquantised weights"
        )
    problems = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", misshapen),
    )
    said = [f"{len(p)} {what} (first {p[0]})" for what, p in problems if p]
    if said:
        raise ValueError(
            f"{folder}: tensors {', '.join(said)}; the weights are of another model "
            f"than {CONFIG} says, or not all there: download the folder again"
        )


def _view(files: Mapping[str, str], tensors: _Open, name: str) -> Any:
    try:
        return tensors[files[name]].get_slice(name)
    except SafetensorError as error:
        raise ValueError(
            f"{tensors.folder / files[name]}: tensor {name!r} is missing, which the "
            "index names; download it again"
        ) from error


def _fits(path: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if not path.endswith(".kernel"):
        return shape == expected
    if len(shape) not in (2, 4):
        return False
    return (math.prod(shape[1:]), shape[0]) == expected


def _read_leaf(path, leaf, sources, found, files, tensors) -> Any:
    """One leaf, filled layer by layer in the type it will have."""
    out = np.empty(leaf.shape, leaf.dtype)
    stacked = path.startswith(_STACKED)
    for i, name in enumerate(sources):
        tensor = tensors[files[found[name]]].get_tensor(found[name])
        if path.endswith(".kernel"):
            tensor = tensor.reshape(tensor.shape[0], -1).T
        out[i if stacked else ...] = tensor  # cast as it is copied
    return jnp.asarray(out)

"""Named tensors in safetensors files: shapes at once, values one at a time."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"
_PICKLES = (".bin", ".pth", ".pt", ".ckpt")
_DTYPES = ("F32", "F16", "BF16")


class Header(NamedTuple):
    """What a file says of a tensor."""

    path: Path
    shape: tuple[int, ...]
    dtype: str  # safetensors' name, such as BF16


class TensorFiles:
    """The tensors of several files. Reading one maps its file only for that long, so
    memory is that of one tensor whatever the size of the model."""

    def __init__(self, paths: Iterable[Path]):
        """Reads every header.

        Raises:
            ValueError: a file is damaged or holds types that are not floats of 16 or 32
                bits; two files hold one name.
        """
        self.headers: dict[str, Header] = {}
        for path in paths:
            for name, header in _headers(path).items():
                if name in self.headers:
                    raise ValueError(
                        f"{path}: tensor {name!r} is also in "
                        f"{self.headers[name].path.name}; give one model at a time"
                    )
                self.headers[name] = header

    def read(self, name: str) -> np.ndarray:
        """The tensor as it is stored."""
        path = self.headers[name].path
        try:
            with safe_open(path, framework="numpy") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from error


def _headers(path: Path) -> dict[str, Header]:
    if path.suffix in _PICKLES:
        raise ValueError(
            f"{path}: a pickle, which can run code when it is read; take the "
            "safetensors files of the same model (the repositories named …-Diffusers)"
        )
    found = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part = file.get_slice(name)
                found[name] = Header(path, tuple(part.get_shape()), part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error
    for name, header in found.items():
        if header.dtype not in _DTYPES:
            raise ValueError(
                f"{path}: tensor {name!r} is {header.dtype}, quantised or not a "
                f"weight; expected {', '.join(_DTYPES)}: take the unquantised files"
            )
    return found


def damaged(path: Path, error: Exception) -> ValueError:
    """What to say of a file that cannot be read to its end."""
    return ValueError(
        f"{path}: not a whole safetensors file ({error}); copy or download it again"
    )


def model_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those its index names, or all of them.

    Raises:
        ValueError: there are none, or one that the index names is missing.
    """
    for index in sorted(folder.glob(f"*{INDEX}")):
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(weight_map.values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index}: damaged ({error}); copy it again") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder}: {len(missing)} of {len(names)} files that {index.name} "
                f"names are missing, such as {missing[0]}; download them too"
            )
        return [folder / name for name in names]
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        pickles = [p for p in sorted(folder.glob("*")) if p.suffix in _PICKLES]
        if pickles:
            _headers(pickles[0])
        raise ValueError(f"{folder}: no {SUFFIX} files here; give a model's folder")
    return files

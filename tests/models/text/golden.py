"""The fixtures of `tests/golden` as folders that the loaders read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.golden.seeded import tensors

GOLDEN = Path(__file__).parents[2] / "golden"


def read_case(file: str, case: str) -> dict[str, Any]:
    """The arrays `case/…` of `text_<file>.npz`."""
    with np.load(GOLDEN / f"text_{file}.npz") as arrays:
        names = [name for name in arrays if name.startswith(f"{case}/")]
        return {name.removeprefix(f"{case}/"): arrays[name] for name in names}


def weights(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of the reference model, by its files' names."""
    return tensors(json.loads(str(case["shapes"])), int(case["seed"]))


def write_model(folder: Path, case: dict[str, Any]) -> Path:
    """The folder that the reference model was loaded from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(str(case["config"]), encoding="utf-8")
    save_file(weights(case), folder / "model.safetensors")
    return folder


def write_tokenizer(folder: Path, case: str) -> Path:
    """A small tokenizer of `text_tokens.npz`, for 200 odd texts or as any."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = read_case("tokens", case)
    (folder / str(tokens["file"])).write_bytes(tokens["data"].tobytes())
    return folder


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |a − b| / max |b|."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

"""The networks of `tests/golden/vision.npz` as folders that the loaders read."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from soraxla.models.vision import i3d, inception
from soraxla.models.vision.convolutions import NORM
from tests.golden.seeded import tensors
from tests.golden.vision import DIVISOR, FILE, I3D_EPS, normed

TINY = {
    "inception": inception.InceptionConfig(width_divisor=DIVISOR),
    "i3d": i3d.I3DConfig(width_divisor=DIVISOR, batch_norm_eps=I3D_EPS),
}


def read_case(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays `name/…`."""
    with np.load(FILE) as arrays:
        names = [each for each in arrays if each.startswith(f"{name}/")]
        return {each.removeprefix(f"{name}/"): arrays[each] for each in names}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a convolutional network's tensors by published names."""
    found = {}
    module, conv = {"inception": (inception, "conv"), "i3d": (i3d, "conv3d")}[name]
    for layer, shape in module.layers(TINY[name]).items():
        found[f"{layer}.{conv}.weight"] = shape
        if layer == i3d.CLASSES:
            found[f"{layer}.{conv}.bias"] = shape[:1]
        else:
            found |= {f"{layer}.bn.{part}": shape[:1] for part in NORM}
    return found


def write_convolutions(folder: Path, name: str) -> Path:
    """Writes the folder that a converter makes."""
    module = {"inception": inception, "i3d": i3d}[name]
    config = {"model_type": module.KIND, **vars(TINY[name])}
    return write(
        folder, normed(shapes(name), ["", "inception", "i3d"].index(name)), config
    )


def write(
    folder: Path, weights: Mapping[str, np.ndarray], config: Mapping[str, object]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(dict(weights), folder / "model.safetensors")
    return folder


def write_transformer(folder: Path, name: str) -> Path:
    """Writes the folder that the reference was loaded from."""
    case = read_case(name)
    weights = tensors(json.loads(str(case["shapes"])), int(case["seed"]))
    return write(folder, weights, json.loads(str(case["config"])))


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns max |a − b| / max |b|."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

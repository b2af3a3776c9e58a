"""The worlds probe: a small network that reads the truth of simulated worlds.

Its features, the last layer before the heads, compare sets of clips of such worlds.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, UInt8
from PIL import Image

from soraxla.core.types import Array
from soraxla.files.tensor_files import check_tensors, model_files, open_tensors
from soraxla.models.text import folder as hf
from soraxla.models.vision.convolutions import Conv, applied, recorded

KIND = "worlds-probe"  # model_type in config.json
SIDE, FRAMES = 64, 17
FEATURES = "features"
WORLDS, COUNTS, SHAPES, PLACES = 5, 8, 8, 5
# Numbers of each head: logits of the world, of the number of objects, and of the shape
# of the largest one; its place at five times and its colour, in 0…1, and its way from
# the first to the last of these places, in −1…1.
HEADS = {
    "world": WORLDS,
    "count": COUNTS,
    "shape": SHAPES,
    "xy": 2 * PLACES,
    "velocity": 2,
    "rgb": 3,
}


@dataclass(frozen=True, kw_only=True)
class WorldsProbeConfig:
    """The settings of the probe; `width_divisor` makes narrow ones, for tests."""

    width_divisor: int = 1


def dimension(cfg: WorldsProbeConfig) -> int:
    """Returns the number of features."""
    return 128 // cfg.width_divisor


@functools.cache
def layers(cfg: WorldsProbeConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape (out, in, …) of each kernel; heads have all widths."""
    found = recorded(_network, (1, FRAMES, SIDE, SIDE, 3), cfg.width_divisor)
    heads = {name: (width, dimension(cfg)) for name, width in HEADS.items()}
    return found | heads


def init(key: jax.Array, cfg: WorldsProbeConfig) -> PyTree:
    """Returns random parameters {name: {kernel, bias}}."""
    params = {}
    for i, (name, shape) in enumerate(layers(cfg).items()):
        turned = (*shape[2:], shape[1], shape[0])
        spread = np.sqrt((1.0 if name in HEADS else 2.0) / np.prod(turned[:-1]))
        kernel = spread * jax.random.normal(jax.random.fold_in(key, i), turned)
        params[name] = {"kernel": kernel, "bias": jnp.zeros(shape[0])}
    return params


def features(params: PyTree, x: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
    """Returns the features, at least 0.

    Args:
        params: the result of `load` or `init`.
        x: the result of `preprocess` for each clip.
    """
    return _network(applied(params), x).reshape(len(x), -1)


def heads(params: PyTree, x: Float[Array, "b d"]) -> dict[str, Float[Array, "b _"]]:
    """Returns the numbers of `HEADS` from features."""
    return {
        name: x @ params[name]["kernel"] + params[name]["bias"][None] for name in HEADS
    }


def load(folder: Path) -> tuple[PyTree, WorldsProbeConfig]:
    """Loads parameters, as float32, and settings of a folder.

    Raises:
        UserError: a file is damaged or missing; tensors are missing, unexpected or
            mis-shaped.
    """
    config = hf.read_config(folder, {KIND: "soraxla.tools.train_probe"})
    cfg = hf.settings(WorldsProbeConfig, config, folder)
    found = open_tensors(model_files(folder))
    expected = {}
    for name, shape in layers(cfg).items():
        expected[f"{name}.kernel"] = (*shape[2:], shape[1], shape[0])
        expected[f"{name}.bias"] = shape[:1]
    check_tensors(found, expected, folder)
    params = {
        name: {
            part: np.asarray(found[f"{name}.{part}"][()], np.float32)
            for part in ("kernel", "bias")
        }
        for name in layers(cfg)
    }
    return params, cfg


def preprocess(video: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "t 64 64 3"]:
    """Scales both sides to 64, bilinear with antialias, and values to −1…1."""
    size, how = (SIDE, SIDE), Image.Resampling.BILINEAR
    if video.shape[1:3] != size:
        frames = [Image.fromarray(frame).resize(size, how) for frame in video]
        video = np.stack([np.asarray(frame) for frame in frames])
    return video.astype(np.float32) / 127.5 - 1


def _network(conv: Conv, x: Array) -> Array:
    """Returns (b, 1, 1, 1, d); pixels are first moved, 2 × 2, into channels."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h // 2, 2, w // 2, 2, c).transpose(0, 1, 2, 4, 3, 5, 6)
    x = x.reshape(b, t, h // 2, w // 2, 4 * c)
    cube = (3, 3, 3)
    x = _pool(conv(x, "conv_1", 24, cube), 2)
    x = _pool(conv(x, "conv_2", 64, cube), 2)
    x = _pool(conv(x, "conv_3", 128, cube), 1)
    x = conv(x, "conv_4", 64, cube)
    return conv(x, FEATURES, 128, x.shape[1:4], 1, "VALID")


def _pool(x: Array, frames: int) -> Array:
    """Returns the maxima of blocks of 2 × 2 positions and so many frames.

    A whole block is one axis each: XLA trains it twice as fast as its window maxima.
    """
    b, t, h, w, c = x.shape
    blocks = x[:, : t // frames * frames]
    blocks = blocks.reshape(b, t // frames, frames, h // 2, 2, w // 2, 2, c)
    return blocks.max(axis=(2, 4, 6))

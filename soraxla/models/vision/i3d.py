"""I3D (arXiv 1705.07750), an Inception over space and time, for FVD (1812.01717).

Pixels are scaled to −1…1 in floating point and then resized without antialias. A resize
of bytes would round them first.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, UInt8

from soraxla.core.types import Array
from soraxla.models.text import folder as hf
from soraxla.models.vision.convolutions import (
    Conv,
    applied,
    average_pool,
    load_folded,
    max_pool,
    recorded,
)
from soraxla.models.vision.resize import bilinear

KIND = "i3d-kinetics-400"  # model_type in config.json
SIDE, FRAMES = 224, 16  # of a video
CLASSES = "logits"  # the layer of the classes

# The channels of each block's branches: one 1×1×1; 1×1×1 and 3×3×3, twice; one after a
# maximum.
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# The window and the stride, in time and space, of the maximum before a block.
_POOLS = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


@dataclass(frozen=True, kw_only=True)
class I3DConfig:
    """The settings of I3D; `width_divisor` makes narrow ones, for tests."""

    batch_norm_eps: float = 1e-3
    width_divisor: int = 1


def dimension(cfg: I3DConfig) -> int:
    """Returns the number of features."""
    return 400 // cfg.width_divisor


@functools.cache
def layers(cfg: I3DConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape (out, in, t, h, w) of each kernel, by PyTorch's names."""
    return recorded(_network, (1, FRAMES, SIDE, SIDE, 3), cfg.width_divisor)


def features(params: PyTree, x: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
    """Returns the logits of the classes, d = 400, means over time.

    Args:
        params: the result of `load`.
        x: the result of `preprocess` for each video; at least 9 frames.
    """
    return _network(applied(params, linear=[CLASSES]), x)


def load(folder: Path) -> tuple[PyTree, I3DConfig]:
    """Loads parameters and settings from a folder of `tools.convert_features`.

    Raises:
        UserError: as `folder.read_config` and `convolutions.load_folded`.
    """
    cfg = hf.settings(I3DConfig, hf.read_config(folder, {KIND: "cd-fvd"}), folder)
    eps = cfg.batch_norm_eps
    params = load_folded(folder, layers(cfg), conv="conv3d", eps=eps, biased=[CLASSES])
    return params, cfg


def preprocess(
    video: UInt8[np.ndarray, "t h w 3"],
) -> Float[np.ndarray, "t 224 224 3"]:
    """Scales to −1…1, then resizes with neither antialias nor crop."""
    scaled = (frame.astype(np.float32) / 255 * 2 - 1 for frame in video)
    return np.stack([bilinear(frame, SIDE, positions="centre") for frame in scaled])


def _network(conv: Conv, x: Array) -> Array:
    x = conv(x, "Conv3d_1a_7x7", 64, (7, 7, 7), 2)
    x = max_pool(x, (1, 3, 3), (1, 2, 2), "SAME")
    x = conv(x, "Conv3d_2b_1x1", 64, (1, 1, 1))
    x = conv(x, "Conv3d_2c_3x3", 192, (3, 3, 3))
    for name, widths in BLOCKS.items():
        if name in _POOLS:
            x = max_pool(x, *_POOLS[name], "SAME")
        x = _block(conv, x, name, widths)
    x = average_pool(x, (2, 7, 7), "VALID")
    return jnp.mean(conv(x, CLASSES, 400, (1, 1, 1)), axis=(1, 2, 3))


def _block(conv: Conv, x: Array, name: str, widths: tuple[int, ...]) -> Array:
    one, cube = (1, 1, 1), (3, 3, 3)
    b0 = conv(x, f"{name}.b0", widths[0], one)
    b1 = conv(x, f"{name}.b1a", widths[1], one)
    b1 = conv(b1, f"{name}.b1b", widths[2], cube)
    b2 = conv(x, f"{name}.b2a", widths[3], one)
    b2 = conv(b2, f"{name}.b2b", widths[4], cube)
    b3 = max_pool(x, cube, one, "SAME")
    b3 = conv(b3, f"{name}.b3b", widths[5], one)
    return jnp.concatenate([b0, b1, b2, b3], axis=-1)

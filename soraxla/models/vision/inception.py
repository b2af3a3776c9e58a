"""FID's Inception (arXiv 1512.00567, 1706.08500), the graph of 2015-12-05.

It differs from later Inception v3 in three things: averages do not count padding, the
last block has a maximum in the place of its average, and images are resized by the
bilinear filter of TensorFlow 1.
"""

import functools
from collections.abc import Sequence
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

KIND = "inception-2015-12-05"  # model_type in config.json
SIDE = 299  # pixels
EPS = 1e-3  # of batch norm

Step = tuple[str, int, tuple[int, int]]  # suffix of a name, channels, kernel


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """The settings of Inception; `width_divisor` makes narrow ones, for tests."""

    width_divisor: int = 1


def dimension(cfg: InceptionConfig) -> int:
    """Returns the number of features."""
    return 2048 // cfg.width_divisor


@functools.cache
def layers(cfg: InceptionConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape (out, in, h, w) of each kernel, by the published names."""
    return recorded(_network, (1, SIDE, SIDE, 3), cfg.width_divisor)


def features(params: PyTree, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
    """Returns the mean of the last block over positions, d = 2048.

    Args:
        params: the result of `load`.
        x: the result of `preprocess`.
    """
    return _network(applied(params), x)


def load(folder: Path) -> tuple[PyTree, InceptionConfig]:
    """Loads parameters and settings from a folder of `tools.convert_features`.

    Raises:
        UserError: as `folder.read_config` and `convolutions.load_folded`.
    """
    config = hf.read_config(folder, {KIND: "pytorch-fid"})
    cfg = hf.settings(InceptionConfig, config, folder)
    return load_folded(folder, layers(cfg), conv="conv", eps=EPS), cfg


def preprocess(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
) -> Float[np.ndarray, "b 299 299 3"]:
    """Resizes as TensorFlow 1 and scales to −1…1, as the graph does."""
    resized = [bilinear(image, SIDE, positions="corner") for image in images]
    return (np.stack(resized) - np.float32(128)) / np.float32(128)


def _network(conv: Conv, x: Array) -> Array:
    x = conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2, "VALID")
    x = conv(x, "Conv2d_2a_3x3", 32, (3, 3), 1, "VALID")
    x = conv(x, "Conv2d_2b_3x3", 64, (3, 3))
    x = max_pool(x, (3, 3), (2, 2), "VALID")
    x = conv(x, "Conv2d_3b_1x1", 80, (1, 1))
    x = conv(x, "Conv2d_4a_3x3", 192, (3, 3), 1, "VALID")
    x = max_pool(x, (3, 3), (2, 2), "VALID")
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _block_35(conv, x, name, pooled)
    x = _reduction_17(conv, x)
    for name, width in zip("bcde", (128, 160, 160, 192), strict=True):
        x = _block_17(conv, x, f"Mixed_6{name}", width)
    x = _reduction_8(conv, x)
    x = _block_8(conv, x, "Mixed_7b", average_pool(x, (3, 3), "SAME"))
    x = _block_8(conv, x, "Mixed_7c", max_pool(x, (3, 3), (1, 1), "SAME"))
    return jnp.mean(x, axis=(1, 2))


def _chain(conv: Conv, x: Array, name: str, *steps: Step) -> Array:
    for suffix, width, kernel in steps:
        x = conv(x, f"{name}.{suffix}", width, kernel)
    return x


def _join(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)


def _block_35(conv: Conv, x: Array, name: str, pooled: int) -> Array:
    """Returns the channels of a block at 35×35 positions."""
    five = (("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5)))
    three = (
        ("branch3x3dbl_1", 64, (1, 1)),
        ("branch3x3dbl_2", 96, (3, 3)),
        ("branch3x3dbl_3", 96, (3, 3)),
    )
    around = average_pool(x, (3, 3), "SAME")
    return _join(
        _chain(conv, x, name, ("branch1x1", 64, (1, 1))),
        _chain(conv, x, name, *five),
        _chain(conv, x, name, *three),
        _chain(conv, around, name, ("branch_pool", pooled, (1, 1))),
    )


def _reduction_17(conv: Conv, x: Array) -> Array:
    name = "Mixed_6a"
    three = (("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)))
    twice = _chain(conv, x, name, *three)
    return _join(
        conv(x, f"{name}.branch3x3", 384, (3, 3), 2, "VALID"),
        conv(twice, f"{name}.branch3x3dbl_3", 96, (3, 3), 2, "VALID"),
        max_pool(x, (3, 3), (2, 2), "VALID"),
    )


def _block_17(conv: Conv, x: Array, name: str, width: int) -> Array:
    """Returns the channels of a block at 17×17 positions."""
    seven = (
        ("branch7x7_1", width, (1, 1)),
        ("branch7x7_2", width, (1, 7)),
        ("branch7x7_3", 192, (7, 1)),
    )
    twice = (
        ("branch7x7dbl_1", width, (1, 1)),
        ("branch7x7dbl_2", width, (7, 1)),
        ("branch7x7dbl_3", width, (1, 7)),
        ("branch7x7dbl_4", width, (7, 1)),
        ("branch7x7dbl_5", 192, (1, 7)),
    )
    around = average_pool(x, (3, 3), "SAME")
    return _join(
        _chain(conv, x, name, ("branch1x1", 192, (1, 1))),
        _chain(conv, x, name, *seven),
        _chain(conv, x, name, *twice),
        _chain(conv, around, name, ("branch_pool", 192, (1, 1))),
    )


def _reduction_8(conv: Conv, x: Array) -> Array:
    name = "Mixed_7a"
    seven = (
        ("branch7x7x3_1", 192, (1, 1)),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
    )
    three = _chain(conv, x, name, ("branch3x3_1", 192, (1, 1)))
    around = _chain(conv, x, name, *seven)
    return _join(
        conv(three, f"{name}.branch3x3_2", 320, (3, 3), 2, "VALID"),
        conv(around, f"{name}.branch7x7x3_4", 192, (3, 3), 2, "VALID"),
        max_pool(x, (3, 3), (2, 2), "VALID"),
    )


def _block_8(conv: Conv, x: Array, name: str, pooled: Array) -> Array:
    """Returns the channels of a block at 8×8 positions."""

    def split(x: Array, wide: str, high: str) -> Array:
        return _join(
            conv(x, f"{name}.{wide}", 384, (1, 3)),
            conv(x, f"{name}.{high}", 384, (3, 1)),
        )

    three = _chain(conv, x, name, ("branch3x3_1", 384, (1, 1)))
    double = (("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)))
    twice = _chain(conv, x, name, *double)
    return _join(
        _chain(conv, x, name, ("branch1x1", 320, (1, 1))),
        split(three, "branch3x3_2a", "branch3x3_2b"),
        split(twice, "branch3x3dbl_3a", "branch3x3dbl_3b"),
        _chain(conv, pooled, name, ("branch_pool", 192, (1, 1))),
    )

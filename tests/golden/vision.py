"""Weights and inputs of `vision.npz`, drawn alike by both sides of the comparison."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.golden.seeded import tensors

FILE = Path(__file__).with_name("vision.npz")
DIVISOR = 16  # of the channels of both Inception networks
IMAGES = ((50, 37), (311, 402))  # (h, w) of Inception's two images
LARGE = ((240, 428), (501, 333))  # (h, w) of the transformers' images
I3D_EPS = 1e-5  # of batch norm in cd-fvd
VIDEO = (16, 60, 81)  # (t, h, w) of every video network's clip


def normed(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Returns tensors of convolutions and batch norms that keep the size of inputs."""
    found = tensors(shapes, seed)
    for name, value in found.items():
        if name.endswith("bn.weight"):
            found[name] = 1 + 0.2 * value
        elif name.endswith("running_var"):
            found[name] = 0.5 + np.abs(value)
        elif name.endswith("running_mean"):
            found[name] = 0.2 * value
        elif value.ndim > 1:
            found[name] = np.float32(1.5) * value  # ReLUs halve squares
    return found


def image(height: int, width: int, seed: int) -> np.ndarray:
    """Returns an image (h, w, 3) uint8 of smooth shapes and noise."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width] / min(height, width)
    waves = np.sin(np.stack([9 * x + 5 * y, 4 * x - 7 * y, 12 * x * y], axis=-1))
    pixels = 128 + 90 * waves + 30 * random.standard_normal((height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def video(seed: int) -> np.ndarray:
    """Returns a clip of the shape `VIDEO`, uint8; its frames differ."""
    frames, height, width = VIDEO
    return np.stack([image(height, width, seed + 100 * i) for i in range(frames)])

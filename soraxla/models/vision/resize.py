"""Resampling of frames on the host, in the ways that feature networks expect.

The filters differ in their sample positions, and in whether they blur before they make
an image smaller (antialias). Each network needs the one that it is published with.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

# Statistics of ImageNet's pixels, 0…1.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def bilinear(
    image: Shaped[np.ndarray, "h w c"],
    size: int,
    *,
    positions: Literal["corner", "centre"],
) -> Float[np.ndarray, "{size} {size} c"]:
    """Returns an image of size × size, without antialias, fp32.

    Args:
        positions: "corner" samples at i·h/size, as TensorFlow 1 did by default;
            "centre" at (i + ½)·h/size − ½, as PyTorch does.
    """
    columns = _mixed(image.astype(np.float32), size, axis=1, positions=positions)
    return _mixed(columns, size, axis=0, positions=positions)


def _mixed(
    image: np.ndarray, size: int, *, axis: int, positions: Literal["corner", "centre"]
) -> np.ndarray:
    """Returns weighted means of the two nearest rows or columns."""
    length = image.shape[axis]
    step, place = np.float32(length / size), np.arange(size, dtype=np.float32)
    if positions == "centre":
        half = np.float32(0.5)
        place = np.maximum((place + half) * step - half, np.float32(0))
    else:
        place = place * step
    first = np.minimum(place.astype(np.int64), length - 1)
    share = (place - first.astype(np.float32)).reshape(
        [-1 if a == axis else 1 for a in range(3)]
    )
    low = np.take(image, first, axis)
    high = np.take(image, np.minimum(first + 1, length - 1), axis)
    return low + (high - low) * share


def centre_crops(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    size: int,
    *,
    short: int,
    filter: Image.Resampling,
) -> Float[np.ndarray, "b {size} {size} 3"]:
    """Scales the shorter side to `short` with antialias, crops and normalises.

    The crop is the centre; the statistics are ImageNet's.
    """
    return np.stack([_centre_crop(image, size, short, filter) for image in images])


def _centre_crop(
    image: np.ndarray, size: int, short: int, filter: Image.Resampling
) -> np.ndarray:
    height, width = image.shape[:2]
    least = min(height, width)
    height, width = int(short * height / least), int(short * width / least)
    picture = Image.fromarray(image).resize((width, height), filter)
    top, left = (height - size) // 2, (width - size) // 2
    pixels = np.asarray(picture)[top : top + size, left : left + size]
    return (pixels.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD


def bicubic_matrix(length: int, size: int) -> Float[np.ndarray, "{size} {length}"]:
    """Returns PyTorch's bicubic filter without antialias, as a matrix.

    Samples beyond an end repeat the end; the filter's parameter is −0.75.
    """
    place = (np.arange(size) + 0.5) * length / size - 0.5
    first = np.floor(place)
    matrix = np.zeros((size, length))
    for offset in (-1, 0, 1, 2):
        weight = _cubic(np.abs(place - first - offset))
        index = np.clip(first + offset, 0, length - 1).astype(int)
        np.add.at(matrix, (np.arange(size), index), weight)
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Returns Keys' kernel (1981) of distances up to 2."""
    a, d = -0.75, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, far)

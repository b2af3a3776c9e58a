"""Shrinking of pictures, fast enough for every frame of a film."""

import cv2
import numpy as np


def shrunk(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a picture (h, w) or (h, w, 3) at a size that is no larger.

    Means of 2×2 pixels halve it while it is twice as large or more, and interpolation
    does the rest. Means of other factors cost several times as much.
    """
    while picture.shape[0] >= 2 * height and picture.shape[1] >= 2 * width:
        half = picture.shape[1] // 2, picture.shape[0] // 2  # (width, height)
        even = picture[: 2 * half[1], : 2 * half[0]]
        picture = cv2.resize(even, half, interpolation=cv2.INTER_AREA)
    if picture.shape[:2] != (height, width):
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture


def at_most(
    picture: np.ndarray, *, shorter: int | None = None, longer: int | None = None
) -> np.ndarray:
    """Returns a picture whose sides have at most so many pixels, in its proportions.

    A picture that is small enough is returned as it is.
    """
    height, width = picture.shape[:2]
    scale = min(
        (shorter or np.inf) / min(height, width),
        (longer or np.inf) / max(height, width),
    )
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return shrunk(picture, *size)

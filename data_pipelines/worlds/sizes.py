"""Sizes, lengths and frame rates of clips."""

from typing import NamedTuple

import numpy as np

from soraxla.core.errors import UserError

# (width, height), each a multiple of 16 pixels, and its weight.
_SIZES = {
    (64, 64): 0.4,
    (96, 64): 0.12,
    (64, 96): 0.12,
    (80, 64): 0.1,
    (64, 80): 0.1,
    (96, 96): 0.08,
    (112, 64): 0.04,
    (64, 112): 0.04,
}
_FRAMES = {17: 0.2, 25: 0.15, 33: 0.4, 41: 0.1, 49: 0.1, 65: 0.05}  # all 1 + 4k
_RATES = (8, 10, 12, 15, 16, 20, 24)
PICTURES = 0.1


class Size(NamedTuple):
    """The arguments of a world beside the seed."""

    width: int
    height: int
    frames: int
    fps: float


def draw_size(seed: int, *, pictures: float = PICTURES) -> Size:
    """Draws a size for a clip: square, wide or tall, 17 to 65 frames, 8 to 24 fps.

    The share `pictures` has one frame.
    """
    rng = np.random.default_rng((seed, 0))
    width, height = list(_SIZES)[rng.choice(len(_SIZES), p=list(_SIZES.values()))]
    frames = int(rng.choice(list(_FRAMES), p=list(_FRAMES.values())))
    fps = float(rng.choice(_RATES))
    if rng.random() < pictures:
        frames = 1
    return Size(width, height, frames, fps)


def check_size(*, width: int, height: int, frames: int, fps: float) -> None:
    """Raises UserError unless the worlds can draw such a clip."""
    if min(width, height) < 32 or max(width, height) > 4 * min(width, height):
        raise UserError(
            f"a clip of {width}x{height} pixels, expected sides of at least 32, none "
            "more than 4 times the other"
        )
    if frames < 1 or not 0 < fps < 1000:
        raise UserError(
            f"a clip of {frames} frames at {fps} a second, expected at least 1 frame "
            "and a rate between 0 and 1000"
        )

"""Frames with time stamps, and their constant grid."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Timed(NamedTuple):
    """A frame and when it is shown."""

    start: float  # seconds after the first frame
    end: float
    pixels: np.ndarray  # (H, W, 3) uint8


def constant_rate(timed: Iterable[Timed], rate: float) -> Iterator[np.ndarray]:
    """Yields the frame nearest to each k / rate, k = 0, 1, …, until the last ends."""
    k, last = 0, None
    for frame in timed:
        while last is not None and k / rate < (last.start + frame.start) / 2:
            yield last.pixels
            k += 1
        last = frame
    # Half a grid step of slack, so that rounded time stamps add or drop no frame.
    while last is not None and (k == 0 or k < last.end * rate - 0.5):
        yield last.pixels
        k += 1

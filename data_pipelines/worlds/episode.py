"""What a simulated world hands back: a captioned clip and the whole truth behind it."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8


class Episode(NamedTuple):
    """One clip of T frames of H x W pixels, its caption, and the state it shows."""

    video: UInt8[np.ndarray, "t h w 3"]
    fps: float
    caption: str  # written from the state, in varied wording
    # a = 0 where a world has none; row i is what is done between frame i-1 and i
    actions: Float[np.ndarray, "t a"]
    camera: Float[np.ndarray, "t 4 4"]  # camera to world; identity for flat worlds
    depth: Float[np.ndarray, "t h w"]  # float32; 0 where a world has none
    # object at each pixel, 0 background, k is row k-1 of the state
    ids: UInt8[np.ndarray, "t h w"]
    state: dict[str, np.ndarray]  # named in the world's docstring, with shapes, units


class World(Protocol):
    """A pure function of its arguments: the same bytes whenever it is called.

    A world may take further options, each with a default.
    """

    def __call__(
        self, seed: int, *, width: int, height: int, frames: int, fps: float
    ) -> Episode:
        """`frames` frames of `height` x `width` pixels, `fps` a second."""
        ...

"""The result of a simulated world: a captioned clip and its exact state."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8


class Episode(NamedTuple):
    """One clip of T frames of H x W pixels, its caption, and its state."""

    video: UInt8[np.ndarray, "t h w 3"]
    fps: float
    caption: str  # written from the state, in varied wording
    # a = 0 for a world without actions; row i is done between frames i-1 and i
    actions: Float[np.ndarray, "t a"]
    camera: Float[np.ndarray, "t 4 4"]  # camera to world; identity for flat worlds
    depth: Float[np.ndarray, "t h w"]  # float32; 0 in a world without depth
    # object at each pixel: 0 is background, k is row k-1 of the state
    ids: UInt8[np.ndarray, "t h w"]
    state: dict[
        str, np.ndarray
    ]  # described in the world's docstring, with shapes and units


class World(Protocol):
    """A pure function: equal arguments give equal bytes.

    A world may take further options, each with a default.
    """

    def __call__(
        self, seed: int, *, width: int, height: int, frames: int, fps: float
    ) -> Episode:
        """Simulates `frames` frames of `height` x `width` pixels at `fps`."""
        ...

"""Retrieval of the sample that is nearest to a generated clip."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

FRAMES, SIDE = 8, 32


def nearest(
    clip: UInt8[np.ndarray, "t h w 3"],
    samples: Sequence[UInt8[np.ndarray, "_ _ _ 3"]],
) -> int:
    """Returns the index of the sample with the least mean squared error to the clip.

    All are resized to 8 frames (evenly spaced, the nearest taken) of 32×32 pixels.
    """
    small = thumbnail(clip)
    errors = [np.mean((small - thumbnail(sample)) ** 2) for sample in samples]
    return int(np.argmin(errors))


def thumbnail(clip: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "8 32 32 3"]:
    """Returns the clip at 8 frames of 32×32 pixels, 0…255."""
    places = np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)
    resample = Image.Resampling.BOX
    frames = [Image.fromarray(clip[i]).resize((SIDE, SIDE), resample) for i in places]
    return np.stack([np.asarray(f, np.float64) for f in frames])

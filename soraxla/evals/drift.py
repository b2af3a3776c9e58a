"""Colour drift over an extension."""

import numpy as np
from jaxtyping import UInt8


def colour_drift(
    before: UInt8[np.ndarray, "t h w 3"], after: UInt8[np.ndarray, "u h w 3"]
) -> float:
    """Returns the largest difference of mean colours over channels, out of 255."""
    means = [clip.astype(np.float64).mean((0, 1, 2)) for clip in (before, after)]
    return float(np.abs(means[0] - means[1]).max())

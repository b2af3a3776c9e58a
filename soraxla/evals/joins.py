"""Does a join show? The step between two frames, against those of the clip."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8


def frame_errors(video: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, " t-1"]:
    """Mean |difference|, of 255, of each frame from the one before."""
    frames = video.astype(np.float32)
    return np.abs(frames[1:] - frames[:-1]).mean((1, 2, 3))


def join_ratio(
    video: UInt8[np.ndarray, "t h w 3"], joins: Sequence[int], *, closed: bool = False
) -> float:
    """The largest step at a join over the median step between the other frames.

    Args:
        joins: the first frame after each join.
        closed: the clip is a loop, whose last frame is followed by its first; a join
            may then be 0.

    Raises:
        ValueError: a join that no frame stands before.
    """
    ring = np.concatenate([video[-1:], video]) if closed else video
    errors, first = frame_errors(ring), 0 if closed else 1
    places = np.array(sorted(set(joins)), int) - first
    if not len(places) or places[0] < 0 or places[-1] >= len(errors):
        raise ValueError(
            f"joins {sorted(set(joins))} in a clip of {len(video)} frames: expected "
            f"{first} to {len(video) - 1}"
        )
    # Of a clip in which nothing moves, a step of half a grey value shows nothing.
    others = np.delete(errors, places)
    usual = np.median(others) if len(others) else 0.0
    return float(errors[places].max() / max(usual, 0.5))


def colour_drift(
    before: UInt8[np.ndarray, "t h w 3"], after: UInt8[np.ndarray, "u h w 3"]
) -> float:
    """The largest difference of the mean colours, over channels, of 255."""
    means = [clip.astype(np.float64).mean((0, 1, 2)) for clip in (before, after)]
    return float(np.abs(means[0] - means[1]).max())

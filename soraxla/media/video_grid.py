"""Rows of clips that play side by side, as one video."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_GAP = 4
_PAPER = 24  # grey


def video_grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ _ 3"]]], *, height: int = 112
) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns a video of all clips, `height` pixels tall each.

    It is as long as the longest clip; shorter ones stop at their last frame.
    """
    frames = max(len(clip) for row in rows for clip in row)
    strips = []
    for row in rows:
        strips.append(np.concatenate([_cell(clip, frames, height) for clip in row], 2))
    width = max(strip.shape[2] for strip in strips)
    grid = np.full(
        (frames, sum(s.shape[1] for s in strips), width, 3), _PAPER, np.uint8
    )
    top = 0
    for strip in strips:
        grid[:, top : top + strip.shape[1], : strip.shape[2]] = strip
        top += strip.shape[1]
    return grid


def _cell(clip: np.ndarray, frames: int, height: int) -> np.ndarray:
    """Returns the clip at its height and length, with a gap below and to the right."""
    width = max(1, round(clip.shape[2] * height / clip.shape[1]))
    size = (width, height)
    scaled = [np.asarray(Image.fromarray(frame).resize(size)) for frame in clip]
    whole = np.stack([*scaled, *[scaled[-1]] * (frames - len(scaled))])
    edges = ((0, 0), (0, _GAP), (0, _GAP), (0, 0))
    return np.pad(whole, edges, constant_values=_PAPER)

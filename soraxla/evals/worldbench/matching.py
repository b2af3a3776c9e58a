"""Displacements between two pictures, found block by block."""

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view

_FULL = 0.6  # the least valid share of a block
_ALIKE = 0.5  # the least correlation of a match
_DULL = 2.0  # of 255: the least contrast of a block that can be matched


def reach(height: int) -> int:
    """Returns the search radius in pixels."""
    return max(2, round(height / 10))


def contrast(
    picture: Float[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "r c"]:
    """Returns the standard deviation of each block's brightness, NaN if too few pixels.

    Blocks have a quarter of the picture's shorter side and overlap by half.
    """
    cell = _cell(*valid.shape)
    count, _, spread = _moments(picture.mean(-1) * valid, valid, cell)
    return np.where(_enough(count, cell), np.sqrt(spread), np.nan)


def displacement(
    picture: Float[np.ndarray, "h w 3"],
    other: Float[np.ndarray, "h w 3"],
    valid: Bool[np.ndarray, "h w"],
) -> Float[np.ndarray, "r c"]:
    """Returns the pixels from each valid block of `picture` to its match in `other`.

    The match is the shift of the greatest normalised cross-correlation (Lewis, 1995),
    refined by a parabola between whole pixels; at most `reach`, and `reach` without a
    match.
    """
    far, cell = reach(len(valid)), _cell(*valid.shape)

    def shifted(plane: np.ndarray) -> np.ndarray:
        return sliding_window_view(np.pad(plane, far), valid.shape)

    seen = shifted(np.ones_like(valid)) & valid
    mine, theirs = picture.mean(-1) * seen, shifted(other.mean(-1)) * seen
    count, mean, spread = _moments(mine, seen, cell)
    _, other_mean, other_spread = _moments(theirs, seen, cell)
    together = _sums(mine * theirs, cell) / np.maximum(count, 1) - mean * other_mean
    least = [np.maximum(np.sqrt(s), _DULL) for s in (spread, other_spread)]
    alike = np.where(_enough(count, cell), together / (least[0] * least[1]), -1.0)
    return _to_peak(alike, far)


def _cell(height: int, width: int) -> int:
    """Returns half the side of a block."""
    return min(height, width) // 8


def _enough(count: Float[np.ndarray, "*b"], cell: int) -> Bool[np.ndarray, "*b"]:
    return count >= _FULL * (2 * cell) ** 2


def _moments(
    plane: np.ndarray, valid: np.ndarray, cell: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pixels, mean and variance of blocks; the plane is 0 where invalid."""
    count = _sums(valid, cell)
    some = np.maximum(count, 1)
    mean = _sums(plane, cell) / some
    return count, mean, np.maximum(_sums(plane * plane, cell) / some - mean**2, 0)


def _sums(plane: np.ndarray, cell: int) -> Float[np.ndarray, "*b r c"]:
    """Returns sums over blocks of two cells by two."""
    rows, columns = (side // cell for side in plane.shape[-2:])
    whole = plane[..., : rows * cell, : columns * cell]
    cells = whole.reshape(*plane.shape[:-2], rows, cell, columns, cell).sum((-3, -1))
    pairs = cells[..., 1:, :] + cells[..., :-1, :]
    return (pairs[..., 1:] + pairs[..., :-1]).astype(float)


def _to_peak(alike: Float[np.ndarray, "k k r c"], far: int) -> Float[np.ndarray, "r c"]:
    """Returns the pixels from the middle to the peak."""
    side, _, rows, columns = alike.shape
    best = alike.reshape(side * side, rows, columns).argmax(0)
    down, right = np.divmod(best, side)
    r, c = np.ogrid[:rows, :columns]
    peak = alike[down, right, r, c]
    padded = np.pad(alike, ((1, 1), (1, 1), (0, 0), (0, 0)), mode="edge")

    def between(y: int, x: int) -> np.ndarray:
        before = padded[down + 1 - y, right + 1 - x, r, c]
        after = padded[down + 1 + y, right + 1 + x, r, c]
        bend = np.minimum(before + after - 2 * peak, -1e-6)
        return ((before - after) / (2 * bend)).clip(-0.5, 0.5)

    away = np.hypot(right - far + between(0, 1), down - far + between(1, 0))
    return np.where(peak > _ALIKE, np.minimum(away, far), far)

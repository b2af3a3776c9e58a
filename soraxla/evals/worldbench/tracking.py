"""Tracking of things of known colours before a known background, by pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from data_pipelines.worlds.draw import COLOURS
from data_pipelines.worlds.episode import Episode
from soraxla.evals.worldbench.patches import areas, largest

# The range of a colour in light and in shadow, as multiples of it.
_SHADES, _SHADOWS = (0.5, 1.1), (0.6, 1.05)
_FAR = 75.0  # in RGB, from all shades of a colour: another colour
_CHANGED = 45.0  # in RGB, from all shades of the background: a thing
_SOFT = 5


class Tracks(NamedTuple):
    """N things in T frames: x and y in pixels, NaN if not seen; pixels covered."""

    position: Float[np.ndarray, "t n 2"]
    area: Int[np.ndarray, "t n"]


def background(truth: Episode) -> Float[np.ndarray, "h w 3"]:
    """Returns the picture behind the things; walls are background."""
    return masked_median(truth.video, truth.ids == 0)


def masked_median(
    video: UInt8[np.ndarray, "t h w 3"], seen: Bool[np.ndarray, "t h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Returns each pixel's median over the frames in which it is seen.

    A pixel that is never seen has the look of the nearest that is.
    """
    ordered = np.sort(np.where(seen[..., None], video, np.float32(np.inf)), axis=0)
    times = seen.sum(0)
    low, high = ((times + k).clip(1) // 2 for k in (-1, 0))
    low, high = (
        np.take_along_axis(ordered, place[None, ..., None], 0)[0]
        for place in (low, high)
    )
    middle, ever = (low + high) / 2, times > 0
    near = np.zeros((2, *ever.shape), np.int32)
    ndimage.distance_transform_edt(
        ~ever, return_distances=False, return_indices=True, indices=near
    )
    return middle[near[0], near[1]]


def track(
    video: UInt8[np.ndarray, "t h w 3"],
    back: Float[np.ndarray, "h w 3"],
    colours: Sequence[str],
) -> Tracks:
    """Returns each colour's largest patch."""
    masks = coloured(video, back, colours)
    return _tracks([np.stack([_thing(mask) for mask in each]) for each in masks])


def coloured(
    video: UInt8[np.ndarray, "t h w 3"],
    back: Float[np.ndarray, "h w 3"],
    colours: Sequence[str],
) -> list[Bool[np.ndarray, "t h w"]]:
    """Returns each colour's pixels; a pixel has the nearest colour or none."""
    pixels = video.astype(np.float32)
    looks = [np.asarray(COLOURS[name], np.float32) for name in colours]
    away = [_away_from(pixels, back), *(_away(pixels, c, _SHADES) for c in looks)]
    nearest = np.argmin(away, axis=0)
    return [(nearest == k) & (away[k] < _FAR) for k in range(1, len(away))]


def true_tracks(truth: Episode, things: int) -> Tracks:
    """Returns the simulator's tracks."""
    return _tracks([truth.ids == k + 1 for k in range(things)])


def count_things(
    video: UInt8[np.ndarray, "t h w 3"],
    back: Float[np.ndarray, "h w 3"],
    smallest: float,
) -> Int[np.ndarray, " t"]:
    """Counts patches of at least `smallest` pixels, of any colour, per frame."""
    masks = changed(video, back)
    return np.array([(areas(mask) >= smallest).sum() for mask in masks])


def changed(
    video: UInt8[np.ndarray, "t h w 3"], back: Float[np.ndarray, "h w 3"]
) -> Bool[np.ndarray, "t h w"]:
    """Returns the pixels of things of any colour."""
    return _away_from(video.astype(np.float32), back) > _CHANGED


def _away_from(
    pixels: Float[np.ndarray, "t h w 3"], back: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "t h w"]:
    """Returns the distance from the background, allowing for edges blurred by a VAE."""
    soft = ndimage.uniform_filter1d(back, _SOFT, axis=0, mode="nearest")
    soft = ndimage.uniform_filter1d(soft, _SOFT, axis=1, mode="nearest")
    return np.minimum(
        _away(pixels, back[None], _SHADOWS), _away(pixels, soft[None], _SHADOWS)
    )


def _away(
    pixels: Float[np.ndarray, "t h w 3"],
    colour: Float[np.ndarray, "..."],
    shades: tuple[float, float],
) -> Float[np.ndarray, "t h w"]:
    """Returns the distance in RGB from the nearest shade of a colour."""
    shade = (pixels * colour).sum(-1) / np.maximum((colour * colour).sum(-1), 1)
    return np.linalg.norm(pixels - shade.clip(*shades)[..., None] * colour, axis=-1)


def _thing(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the largest patch, with its holes, since highlights are white."""
    return np.asarray(ndimage.binary_fill_holes(largest(mask)))


def _tracks(masks: Sequence[Bool[np.ndarray, "t h w"]]) -> Tracks:
    mask_TNHW = np.stack(masks, 1)
    area = mask_TNHW.sum((2, 3))
    height, width = mask_TNHW.shape[2:]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    some = np.where(area > 0, area, np.nan)
    place = ((mask_TNHW.sum(2) @ x) / some, (mask_TNHW.sum(3) @ y) / some)
    return Tracks(np.stack(place, -1), area)

"""Where things of known colours are, read from the pixels before a known background."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from data_pipelines.worlds.draw import COLOURS
from data_pipelines.worlds.episode import Episode

# What light and shadow make of a colour, as multiples of it.
_SHADES, _SHADOWS = (0.5, 1.1), (0.6, 1.05)
_FAR = 75.0  # in RGB, from all shades of a colour: another colour
_CHANGED = 45.0  # in RGB, from all shades of the background: a thing


class Tracks(NamedTuple):
    """N things in T frames: x and y in pixels, NaN where not seen; pixels covered."""

    position: Float[np.ndarray, "t n 2"]
    area: Int[np.ndarray, "t n"]


def background(truth: Episode) -> Float[np.ndarray, "h w 3"]:
    """What is behind the things; walls are background."""
    return masked_median(truth.video, truth.ids == 0)


def masked_median(
    video: UInt8[np.ndarray, "t h w 3"], seen: Bool[np.ndarray, "t h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Each pixel's median over the frames in which it is seen.

    One that never is has the look of the nearest that is.
    """
    ordered = np.sort(np.where(seen[..., None], video, np.float32(np.inf)), axis=0)
    times = seen.sum(0)
    low, high = ((times + k).clip(1) // 2 for k in (-1, 0))
    low, high = (
        np.take_along_axis(ordered, place[None, ..., None], 0)[0]
        for place in (low, high)
    )
    middle, ever = (low + high) / 2, times > 0
    near = ndimage.distance_transform_edt(
        ~ever, return_distances=False, return_indices=True
    )
    return middle[tuple(near)]


def track(
    video: UInt8[np.ndarray, "t h w 3"],
    back: Float[np.ndarray, "h w 3"],
    colours: Sequence[str],
) -> Tracks:
    """Each colour's largest patch; a pixel has the nearest colour or is background."""
    pixels = video.astype(np.float32)
    away = [_away(pixels, back[None], _SHADOWS)]
    away += [_away(pixels, np.float32(COLOURS[name]), _SHADES) for name in colours]
    nearest = np.argmin(away, axis=0)
    masks = [
        (nearest == k + 1) & (away[k + 1] < _FAR) for k in range(len(colours))
    ]
    return _tracks([np.stack([_largest(mask) for mask in each]) for each in masks])


def true_tracks(truth: Episode, things: int) -> Tracks:
    """Where the simulator says they are seen."""
    return _tracks([truth.ids == k + 1 for k in range(things)])


def count_things(
    video: UInt8[np.ndarray, "t h w 3"],
    back: Float[np.ndarray, "h w 3"],
    smallest: float,
) -> Int[np.ndarray, " t"]:
    """Patches of at least so many pixels, of any colour, before the background."""
    masks = _away(video.astype(np.float32), back[None], _SHADOWS) > _CHANGED
    return np.array([(_areas(mask) >= smallest).sum() for mask in masks])


def _away(
    pixels: Float[np.ndarray, "t h w 3"],
    colour: Float[np.ndarray, "..."],
    shades: tuple[float, float],
) -> Float[np.ndarray, "t h w"]:
    """Distance in RGB from the nearest shade of a colour."""
    shade = (pixels * colour).sum(-1) / np.maximum((colour * colour).sum(-1), 1)
    return np.linalg.norm(pixels - shade.clip(*shades)[..., None] * colour, axis=-1)


def _areas(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, " k"]:
    labels, _ = ndimage.label(mask)
    return np.bincount(labels.ravel())[1:]


def _largest(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest patch, with its holes: a highlight is white."""
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_fill_holes(mask)


def _tracks(masks: Sequence[Bool[np.ndarray, "t h w"]]) -> Tracks:
    mask_TNHW = np.stack(masks, 1)
    area = mask_TNHW.sum((2, 3))
    height, width = mask_TNHW.shape[2:]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    some = np.where(area > 0, area, np.nan)
    place = ((mask_TNHW.sum(2) @ x) / some, (mask_TNHW.sum(3) @ y) / some)
    return Tracks(np.stack(place, -1), area)

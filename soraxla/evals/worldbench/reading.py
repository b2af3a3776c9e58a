"""Recognition of one shape in a clip's pixels: its form, colour and direction."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from data_pipelines.worlds.draw import COLOURS, REACH, SHAPES, coverage, pixel_grid
from data_pipelines.worlds.occlusion_scene import DIRECTIONS
from soraxla.evals.worldbench.patches import largest

_CHANGED = 45.0  # in RGB, from the background: a moving pixel
_SMALLEST = 12.0  # pixels of a shape in full view
_BLURS = (0.0, 0.7, 1.4)  # pixels


class Reading(NamedTuple):
    """A colour, a shape and a direction by their names; "" for a missing one."""

    colour: str
    shape: str
    direction: str


NOTHING = Reading("", "", "")


def still_background(video: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Returns the still background: every pixel's median over time."""
    return np.median(video, axis=0).astype(np.float32)


def read_shape(video: UInt8[np.ndarray, "t h w 3"]) -> Reading:
    """Reads the largest thing that moves before a still background."""
    pixels = video.astype(np.float32)
    back = still_background(video)
    masks = np.linalg.norm(pixels - back[None], axis=-1) > _CHANGED
    masks = np.stack([largest(mask) for mask in masks])
    area = masks.sum((1, 2))
    full = area >= max(_SMALLEST, 0.75 * np.quantile(area, 0.9))
    if full.sum() < 2:
        return NOTHING
    colour = _colour(pixels, masks & full[:, None, None])
    cover = _cover(pixels, back, np.asarray(COLOURS[colour], np.float32))
    near = np.stack([ndimage.binary_dilation(mask, iterations=2) for mask in masks])
    cover = cover * near
    return Reading(colour, _shape(cover[full]), _direction(masks, full))


def _colour(
    pixels: Float[np.ndarray, "t h w 3"], masks: Bool[np.ndarray, "t h w"]
) -> str:
    """Returns the nearest name of the colour in the middle of the masks."""
    inner = np.zeros_like(masks)
    for mask, out in zip(masks, inner, strict=True):
        ndimage.binary_erosion(mask, output=out)
    chosen = pixels[inner if inner.sum() > _SMALLEST else masks]
    mean = np.median(chosen, axis=0)
    return min(COLOURS, key=lambda name: float(np.linalg.norm(mean - COLOURS[name])))


def _cover(
    pixels: Float[np.ndarray, "t h w 3"],
    back: Float[np.ndarray, "h w 3"],
    colour: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "t h w"]:
    """Returns each pixel's coverage: 0 has the background's colour, 1 the shape's."""
    to = colour - back
    along = ((pixels - back[None]) * to[None]).sum(-1)
    return (along / np.maximum((to * to).sum(-1), 1.0)[None]).clip(0, 1)


def _shape(cover: Float[np.ndarray, "t h w"]) -> str:
    """Returns the name whose outline, of the same area, is the most similar on average.

    Outlines are as sharp as the clip, since a VAE blurs moving things.
    """
    errors = dict.fromkeys(itertools.product(SHAPES, _BLURS), 0.0)
    x, y = pixel_grid(cover.shape[2], cover.shape[1])
    for frame in cover:
        area = max(float(frame.sum()), 1e-6)
        cx, cy = float((frame * x).sum()) / area, float((frame * y).sum()) / area
        for name, (unit_area, (dx, dy)) in _MOMENTS.items():
            radius = float(np.sqrt(area / unit_area))
            at = x - cx + dx * radius, y - cy + dy * radius
            outline = coverage(SHAPES[name](*at, radius))
            for blur in _BLURS:
                soft = ndimage.gaussian_filter(outline, blur) if blur else outline
                errors[name, blur] += float(np.square(frame - soft).sum()) / area
    return min(errors, key=lambda key: errors[key])[0]


def _moments(name: str) -> tuple[float, tuple[float, float]]:
    """Returns area and centroid of a shape of radius 1."""
    grid = (np.arange(512, dtype=np.float32) + 0.5) / 256 - 1
    x, y = grid[None, :] * REACH, grid[:, None] * REACH
    inside = SHAPES[name](x, y, 1.0) < 0
    area = float(inside.mean()) * (2 * REACH) ** 2
    centre = (
        float((inside * x).sum() / inside.sum()),
        float((inside * y).sum() / inside.sum()),
    )
    return area, centre


_MOMENTS = {name: _moments(name) for name in SHAPES}


def _direction(masks: Bool[np.ndarray, "t h w"], full: Bool[np.ndarray, " t"]) -> str:
    """Returns the nearest direction of the path from the first to the last sighting."""
    seen = np.flatnonzero(full)
    centres = np.array([ndimage.center_of_mass(masks[t])[::-1] for t in seen])
    slope = np.polyfit(seen, centres, 1)[0]
    motion = slope * (seen[-1] - seen[0])
    if np.linalg.norm(motion) < 2.0:  # pixels: it rests
        return ""
    steps = {name: np.array(step, float) for name, step in DIRECTIONS.items()}
    return max(
        steps,
        key=lambda name: float(motion @ steps[name] / np.linalg.norm(steps[name])),
    )

"""Correspondences between two views of one scene by a known camera."""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.voxel_view import FOV, rays

_FAR = 48.0  # blocks: farther pixels are haze
_EDGE = 1.25  # times the depth of a neighbour: an edge
_SAME = 1.04  # times the expected depth: the same thing


class Shared(NamedTuple):
    """Each pixel's position in another view, and whether both show the same.

    `x` and `y` are pixels of the other view, with centres at halves.
    """

    x: Float[np.ndarray, "h w"]
    y: Float[np.ndarray, "h w"]
    both: Bool[np.ndarray, "h w"]

    @property
    def distance(self) -> Float[np.ndarray, "h w"]:
        """Returns the pixels between positions in both views."""
        height, width = self.x.shape
        right = np.arange(width) + 0.5
        down = np.arange(height)[:, None] + 0.5
        return np.hypot(self.x - right, self.y - down)


def shared(truth: Episode, other: int, frame: int) -> Shared:
    """Returns where frame `other` shows the content of `frame`, by true geometry."""
    depth = truth.depth[frame]
    to_other = np.linalg.inv(truth.camera[other].astype(float)) @ truth.camera[frame]
    points = (directions(*depth.shape) * depth[..., None]) @ to_other[:3, :3].T
    points += to_other[:3, 3]
    x, y = project(points, *depth.shape)
    solid = np.where(truth.ids[other] == vb.WATER, 0, truth.depth[other])
    around = [
        _nearest(solid, x + right, y + down)
        for right in (-0.5, 0.5)
        for down in (-0.5, 0.5)
    ]
    least, most = np.min(around, axis=0), np.max(around, axis=0)
    due = np.linalg.norm(points, axis=-1)
    both = (least > 0) & (most < _EDGE * least)
    both &= (due < _SAME * most) & (due * _SAME > least)
    both &= (depth > 0) & (depth < _FAR) & (truth.ids[frame] != vb.WATER)
    return Shared(x, y, both)


@cache
def directions(height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """Returns unit directions, in the camera, of the centres of pixels."""
    every = rays(height, width, corners=False).astype(float)
    return np.ascontiguousarray(every.T.reshape(height, width, 3))


def project(
    points: Float[np.ndarray, "*b 3"], height: int, width: int
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """Returns pixels (x, y) of points in the camera; NaN for points behind it."""
    focal = height / 2 / float(np.tan(np.radians(FOV) / 2))
    ahead = points[..., 2]
    scale = focal / np.where(ahead > 1e-3, ahead, np.nan)
    return points[..., 0] * scale + width / 2, points[..., 1] * scale + height / 2


def look_up(
    pictures: Float[np.ndarray, "n h w c"],
    x: Float[np.ndarray, "n p q"],
    y: Float[np.ndarray, "n p q"],
) -> Float[np.ndarray, "n p q c"]:
    """Samples each picture at (x, y), linear between centres; NaN outside it."""
    count, height, width, channels = pictures.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = []
    for at, size in ((x, width), (y, height)):
        at = np.where(inside, at - 0.5, 0.0).clip(0, size - 1)
        low = np.minimum(at.astype(np.int64), size - 2)
        places.append((low, (at - low)[..., None]))
    (x0, right), (y0, down) = places
    flat = pictures.reshape(count, height * width, channels)
    corner, each = y0 * width + x0, np.arange(count)[:, None, None]
    top = flat[each, corner] * (1 - right) + flat[each, corner + 1] * right
    corner = corner + width
    bottom = flat[each, corner] * (1 - right) + flat[each, corner + 1] * right
    return np.where(inside[..., None], top * (1 - down) + bottom * down, np.nan)


def _nearest(
    picture: Float[np.ndarray, "h w"],
    x: Float[np.ndarray, "p q"],
    y: Float[np.ndarray, "p q"],
) -> Float[np.ndarray, "p q"]:
    """Returns the pixel that contains (x, y); 0 outside."""
    height, width = picture.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    column, row = (np.where(inside, at, 0).astype(np.int64) for at in (x, y))
    return np.where(inside, picture[row, column], 0)

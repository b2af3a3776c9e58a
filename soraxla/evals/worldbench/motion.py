"""A camera's motion from frame to frame, estimated from the pixels of a clip.

It is direct visual odometry (Kerl et al., 2013): the motion that makes each frame most
similar to the previous one, found by Gauss-Newton on increasingly sharp frames. Depth
and the vertical are the true clip's, so the motion is in degrees and blocks.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data_pipelines.worlds.episode import Episode
from soraxla.evals.worldbench.cases import Video
from soraxla.evals.worldbench.views import directions, look_up, project

_BLURS = (4, 2, 1)  # pixels of a picture of 64, in this order
_STEPS = 4  # per blur
# The unknowns are turn and pitch (radians) and motion aside, up and ahead (blocks).
# These are typical sizes of a solver step, which is at most twice as large.
_UNITS = np.array([0.05, 0.05, 0.15, 0.15, 0.15])
_ALIKE = 0.3  # the least correlation of a found motion
_NEAREST = 0.5  # blocks
_SMALL = 1e-3  # the step of numerical derivatives


class Motion(NamedTuple):
    """The motion of N latents, from the last frame of the previous one to their last.

    Degrees to the right, and blocks ahead on the level.
    """

    turn: Float[np.ndarray, " n"]
    ahead: Float[np.ndarray, " n"]


class _Views(NamedTuple):
    """N frames as a moving camera sees them: rays, 1 / depth, and axes."""

    rays: Float[np.ndarray, "h w 3"]
    nearness: Float[np.ndarray, "n h w"]  # 0 of the sky
    right: Float[np.ndarray, "n 3"]  # level directions, in each frame's camera
    up: Float[np.ndarray, "n 3"]
    ahead: Float[np.ndarray, "n 3"]


def true_motion(truth: Episode, condition_frames: int) -> Motion:
    """Returns the simulator's motion of the latents after the condition frames."""
    yaw = np.radians(truth.state["yaw"].astype(float))
    step = np.diff(truth.state["position"].astype(float), axis=0)
    ahead = step[:, 2] * np.cos(yaw[1:]) - step[:, 0] * np.sin(yaw[1:])
    starts = _ends(len(yaw), condition_frames)[:-1]
    return Motion(
        np.add.reduceat(np.degrees(np.diff(yaw))[: starts[-1] + 4], starts),
        np.add.reduceat(ahead[: starts[-1] + 4], starts),
    )


def motion(video: Video, truth: Episode, condition_frames: int) -> Motion:
    """Returns the latents' motion from pixels; 0 if none is found.

    It is tracked from frame to frame, and from there between the ends of latents. The
    depth is wrong if a clip has left the true path; turns hardly depend on it.
    """
    grey = video.astype(float).mean(-1)
    ends = _ends(len(video), condition_frames)
    frames = np.arange(ends[0], ends[-1] + 1)
    moved, alike = _solve(grey, truth, frames, np.zeros((len(frames) - 1, 5)))
    moved = (moved * (alike > _ALIKE)[:, None]).reshape(-1, 4, 5).sum(1)
    whole, alike = _solve(grey, truth, ends, moved)
    moved = np.where((alike > _ALIKE)[:, None], whole, moved)
    return Motion(np.degrees(moved[:, 0]), moved[:, 4])


def _ends(frames: int, condition_frames: int) -> Int[np.ndarray, " ends"]:
    """Returns the last condition frame, and the last frame of each later latent."""
    return np.arange(condition_frames - 1, frames, 4)


def _solve(
    grey: Float[np.ndarray, "t h w"],
    truth: Episode,
    frames: Int[np.ndarray, " ends"],
    start: Float[np.ndarray, "n 5"],
) -> tuple[Float[np.ndarray, "n 5"], Float[np.ndarray, " n"]]:
    """Returns the motion from each of some frames to the next, and their similarity.

    Without a motion that increases the similarity, it is the start value.
    """
    height, width = grey.shape[1:]
    views, moved = _views(truth, frames[1:]), start
    for blur in _BLURS:
        soft = _band(grey[frames], blur * height / 64)
        # A blurred frame needs fewer pixels.
        some = np.s_[blur // 2 :: blur]
        part = views._replace(
            rays=views.rays[some, some], nearness=views.nearness[:, some, some]
        )
        slopes = np.gradient(soft[:-1], axis=(2, 1))
        before, after = np.stack([soft[:-1], *slopes], -1), soft[1:, some, some]
        for _ in range(_STEPS):
            moved = moved + _step(before, after, part, moved)
    alike = []
    for each in (start, moved):
        x, y = _places(views, each, height, width)
        alike.append(_alike(look_up(before[..., :1], x, y)[..., 0], after))
    better = alike[1] > alike[0]
    return np.where(better[:, None], moved, start), np.maximum(*alike)


def _views(truth: Episode, frames: Int[np.ndarray, " n"]) -> _Views:
    depth = truth.depth[frames]
    up = truth.camera[frames, 1, :3].astype(float)  # the world's up, in the camera
    right = np.zeros_like(up)
    right[:, 0] = 1  # a player's head never tilts
    return _Views(
        rays=directions(*depth.shape[1:]),
        nearness=np.where(depth > 0, 1 / np.maximum(depth, _NEAREST), 0),
        right=right,
        up=up,
        ahead=np.cross(up, right),
    )


def _band(grey: Float[np.ndarray, "t h w"], blur: float) -> Float[np.ndarray, "t h w"]:
    """Removes details finer than `blur` pixels, and much coarser ones."""
    soft, softer = (
        ndimage.gaussian_filter(grey, (0, wide, wide)) for wide in (blur, 4 * blur + 4)
    )
    return np.asarray(soft - softer)


def _places(
    views: _Views, moved: Float[np.ndarray, "n 5"], height: int, width: int
) -> tuple[Float[np.ndarray, "n h w"], Float[np.ndarray, "n h w"]]:
    """Returns the position in the previous frame of each pixel's content."""
    turned = Rotation.from_rotvec(
        moved[:, 1:2] * views.right - moved[:, :1] * views.up
    ).as_matrix()
    axes = np.stack([views.right, views.up, views.ahead], 1)
    shift = np.einsum("nk,nki->ni", moved[:, 2:], axes)
    points = np.einsum("nij,hwj->nhwi", turned, views.rays)
    points = points + views.nearness[..., None] * shift[:, None, None]
    return project(points, height, width)


def _step(
    before: Float[np.ndarray, "n h w 3"],
    after: Float[np.ndarray, "n p q"],
    views: _Views,
    moved: Float[np.ndarray, "n 5"],
) -> Float[np.ndarray, "n 5"]:
    """Returns a step to the motion that makes `after` most similar to `before`."""
    size = before.shape[1:3]
    x, y = _places(views, moved, *size)
    there = look_up(before, x, y)
    seen = np.isfinite(there[..., 0])
    there = np.where(seen[..., None], there, 0)
    off = np.where(seen, there[..., 0] - after, 0)
    slopes = []
    for k, unit in enumerate(_UNITS):
        other = moved.copy()
        other[:, k] += _SMALL
        dx, dy = (
            np.where(seen, b - a, 0)
            for a, b in zip((x, y), _places(views, other, *size), strict=True)
        )
        slopes.append((there[..., 1] * dx + there[..., 2] * dy) * (unit / _SMALL))
    slope_NPQK = np.nan_to_num(np.stack(slopes, -1))
    # Cauchy's weights: new or independently moving pixels count little.
    scale = 1.48 * np.median(np.abs(off), axis=(1, 2), keepdims=True) + 1
    weight = seen / (1 + (off / (2 * scale)) ** 2)
    weighted = slope_NPQK * weight[..., None]
    bend = np.einsum("npqi,npqj->nij", weighted, slope_NPQK)
    pull = np.einsum("npqi,npq->ni", weighted, off)
    damping = 2e-4 * np.trace(bend, axis1=1, axis2=2) + 1
    bend = bend + damping[:, None, None] * np.eye(len(_UNITS))
    step = -np.linalg.solve(bend, pull[..., None])[..., 0]
    return step.clip(-2, 2) * _UNITS


def _alike(
    a: Float[np.ndarray, "n h w"], b: Float[np.ndarray, "n h w"]
) -> Float[np.ndarray, " n"]:
    """Returns the correlation of the common pixels; 0 if there are none."""
    both: Bool[np.ndarray, "n h w"] = np.isfinite(a)
    a, b = np.where(both, a, 0), np.where(both, b, 0)
    power = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    return (a * b).sum((1, 2)) / np.maximum(power, 1e-6)

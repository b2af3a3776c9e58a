"""The stage `motion`: optical flow between samples, parted into camera and objects.

The flow is OpenCV's DIS (arXiv 1603.03590) between frames half a second apart, at a
small size. Displacements are percent of the picture's diagonal per second.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.curate.shrink import at_most
from data_pipelines.curate.stage import Limit, Scores, Stage


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Parameters of the measurement of motion."""

    side: int = 128  # pixels of the shorter side that flow is computed at
    still: float = 0.6  # percent of the diagonal per second, below which a pixel rests


STAGE = Stage(
    name="motion",
    summary="measures optical flow at 2 frames per second",
    scores={
        "mean": "mean displacement, percent of the diagonal per second",
        "still": "share of pixels that rest",
        "camera": "displacement of the best affine motion of the whole picture",
        "object": "mean displacement that remains beside the camera's",
        "jitter": "mean change of the camera's displacement between samples",
    },
    limits={
        "mean": Limit(min=0.25),
        "still": Limit(max=0.995),
        "jitter": Limit(max=60.0),
    },
    parameters=MotionConfig(),
)
_STEP = 2  # pixels between those whose flow is measured


def scores(pictures: Sequence[np.ndarray], seconds: float, cfg: MotionConfig) -> Scores:
    """Returns the scores of RGB pictures of one size that are `seconds` apart.

    All are absent with fewer than two pictures.
    """
    if len(pictures) < 2:
        return dict.fromkeys(STAGE.scores)
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    small = [_small(picture, cfg.side) for picture in pictures]
    unit = 100 / (float(np.hypot(*small[0].shape)) * seconds)
    means, still, camera, rest, paths = [], [], [], [], []
    empty = np.zeros((*small[0].shape, 2), np.float32)
    grid = _grid(*empty[::_STEP, ::_STEP].shape[:2])
    for before, after in itertools.pairwise(small):
        flow = engine.calc(before, after, empty.copy())
        flow = flow[::_STEP, ::_STEP] * np.float32(unit)
        length = np.hypot(flow[..., 0], flow[..., 1])
        whole = _affine(flow, grid)
        beside = flow - whole
        means.append(length.mean())
        still.append((length < cfg.still).mean())
        camera.append(np.hypot(whole[..., 0], whole[..., 1]).mean())
        rest.append(np.hypot(beside[..., 0], beside[..., 1]).mean())
        paths.append(whole.mean((0, 1)))
    turns = np.diff(paths, axis=0) if len(paths) > 1 else np.zeros((1, 2))
    return {
        "mean": float(np.mean(means)),
        "still": float(np.mean(still)),
        "camera": float(np.mean(camera)),
        "object": float(np.mean(rest)),
        "jitter": float(np.hypot(turns[:, 0], turns[:, 1]).mean()),
    }


def _small(picture: np.ndarray, side: int) -> np.ndarray:
    grey = at_most(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), shorter=side)
    # DIS needs a few patches of 8 pixels on each side.
    size = max(32, grey.shape[1]), max(32, grey.shape[0])
    return cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)


def _grid(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.stack([np.ones_like(x), x, y], -1).astype(np.float32)


def _affine(flow: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Returns the affine flow nearest to a flow, refitted without its outliers."""
    a, b = (part[::2, ::2].reshape(-1, part.shape[-1]) for part in (grid, flow))
    kept = np.ones(len(a), bool)
    fit = np.zeros((3, 2), np.float32)
    for _ in range(3):
        inside = a[kept].astype(np.float64)
        fit = np.linalg.pinv(inside.T @ inside) @ (inside.T @ b[kept])
        error = np.hypot(*(b - a @ fit).T)
        kept = error <= max(float(np.median(error)) * 2, 1e-3)
        if kept.sum() < 8:
            break
    return grid @ fit.astype(np.float32)

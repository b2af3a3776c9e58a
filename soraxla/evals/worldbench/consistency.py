"""The family `consistency`: frames from two positions must show one scene.

The measure is the reprojection error of structure from motion (Hartley and Zisserman,
2004), with the simulator's depth and camera instead of estimates.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds import voxel
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench.cases import (
    Case,
    Family,
    Measure,
    Score,
    Video,
    candidates,
    nothing_to_ask,
)
from soraxla.evals.worldbench.matching import contrast, displacement
from soraxla.evals.worldbench.views import Shared, look_up, shared

CONDITION_FRAMES = 9  # frames, 3 latents: they show the camera's motion
_PAIRS = 6  # compared pairs of frames, of each kind
_COVISIBLE = 0.2  # share of a frame
_MOVED = 0.05  # of the height: the least motion of the middle pixel
_TEXTURED = 8.0  # of 255: the least contrast of a compared block
_NOTHING = 1.0  # of 255: a smaller difference between frames is no motion

_Pairs = list[tuple[int, int, Shared]]


def case(seed: int, size: Size) -> Case:
    """Returns a free camera's clip with both kinds of pairs."""
    for candidate in candidates(seed) if size.frames >= CONDITION_FRAMES + 8 else ():
        truth = voxel.film(candidate, **size._asdict())
        if _with_condition(truth) and _of_generated(truth):
            return Case(candidate, truth, CONDITION_FRAMES, ("actions", "camera"))
    raise nothing_to_ask("voxel", size)


def _ends(truth: Episode) -> range:
    """Returns the last frames of the latents after the condition frames."""
    return range(CONDITION_FRAMES + 3, len(truth.video), 4)


def _with_condition(truth: Episode) -> _Pairs:
    """Returns pairs of the last condition frame and later frames that overlap it."""
    return _compared(truth, [(CONDITION_FRAMES - 1, j) for j in _ends(truth)])


def _of_generated(truth: Episode) -> _Pairs:
    ends = _ends(truth)
    return _compared(truth, [(i, j) for i in ends for j in ends if i < j])


def _compared(truth: Episode, pairs: Sequence[tuple[int, int]]) -> _Pairs:
    """Returns the pairs that overlap enough, from positions far enough apart."""
    every = [(i, j, shared(truth, i, j)) for i, j in pairs]
    least = _MOVED * truth.video.shape[1]
    good = [
        (i, j, view)
        for i, j, view in every
        if view.both.mean() > _COVISIBLE and np.median(view.distance[view.both]) > least
    ]
    chosen = np.linspace(0, len(good) - 1, min(_PAIRS, len(good))).round().astype(int)
    return [good[k] for k in chosen]


def score(case: Case, video: np.ndarray) -> Score:
    truth = case.truth
    with_condition, generated = _with_condition(truth), _of_generated(truth)
    values = {
        "scene error": float(
            np.mean([_residual(video, *pair) for pair in with_condition])
        ),
        "scene displacement": _displacement(case, video, with_condition),
        "reprojection error": float(
            np.mean([_unexplained(video, *p) for p in generated])
        ),
        "displacement": _displacement(case, video, generated),
    }
    views = [
        shared(truth, CONDITION_FRAMES - 1, j)
        for j in range(CONDITION_FRAMES, len(video))
    ]
    curves = []
    for each in (truth.video, video):
        curve = np.full(len(video), np.nan)
        curve[CONDITION_FRAMES:] = [
            _residual(each, CONDITION_FRAMES - 1, CONDITION_FRAMES + k, view)
            if view.both.mean() > _COVISIBLE
            else np.nan
            for k, view in enumerate(views)
        ]
        curves.append(curve)
    return Score(values, {"scene error": (curves[0], curves[1])})


def _warped(video: Video, other: int, view: Shared) -> np.ndarray:
    """Returns frame `other` warped to a view's camera; NaN outside it."""
    picture = video[other : other + 1].astype(np.float32)
    return look_up(picture, view.x[None], view.y[None])[0]


def _residual(video: Video, other: int, frame: int, view: Shared) -> float:
    """Returns the mean difference, out of 255, of the overlap of both frames."""
    warped = _warped(video, other, view)
    return float(np.abs(warped - video[frame])[view.both].mean())


def _unexplained(video: Video, other: int, frame: int, view: Shared) -> float:
    """Returns the residual as a share of the change between the frames, at most 1.

    A clip that stands still does not change and has 1: the camera does not explain it.
    """
    change = video[other].astype(np.float32) - video[frame]
    before = float(np.abs(change)[view.both].mean())
    if before < _NOTHING:
        return 1.0
    return min(_residual(video, other, frame, view) / before, 1.0)


def _displacement(case: Case, video: Video, pairs: _Pairs) -> float:
    """Returns the pixels between expected and found positions of textured blocks."""
    away = []
    for other, frame, view in pairs:
        warped = np.nan_to_num(_warped(video, other, view))
        apart = displacement(warped, video[frame].astype(np.float32), view.both)
        true_frame = case.truth.video[frame].astype(np.float32)
        away += apart[contrast(true_frame, view.both) > _TEXTURED].tolist()
    return float(np.mean(away)) if away else np.nan


FAMILY = Family(
    what=f"the camera circles, flies or turns on after {CONDITION_FRAMES} frames",
    measures={
        "scene error": Measure(
            unit="of 255",
            what="from the last condition frame, where it must be in view again",
        ),
        "scene displacement": Measure(
            unit="px",
            what="of the last condition frame's content, from its true position",
        ),
        "reprojection error": Measure(
            unit="share",
            what="of the change between generated frames, unexplained by the camera",
        ),
        "displacement": Measure(
            unit="px",
            what="of a generated frame's content in another, from its true position",
        ),
    },
    case=case,
    score=score,
)

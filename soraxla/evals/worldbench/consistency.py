"""Is what is seen from two places one scene, under the camera that is known?

The reprojection error of structure from motion (Hartley and Zisserman, 2004), with the
simulator's depth and camera in place of estimates.
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

GIVEN = 9  # frames, 3 latents: the way the camera goes can be seen
_PAIRS = 6  # of frames that are compared, of each kind
_COVISIBLE = 0.2  # share of a frame
_MOVED = 0.05  # of the height, by which the middle pixel must have moved
_TEXTURED = 8.0  # of 255: the contrast of blocks that are looked for
_NOTHING = 1.0  # of 255: frames that differ by less do not move

_Pairs = list[tuple[int, int, Shared]]


def case(seed: int, size: Size) -> Case:
    """A free camera's clip; both kinds of pairs are in it."""
    for candidate in candidates(seed) if size.frames >= GIVEN + 8 else ():
        truth = voxel.film(candidate, **size._asdict())
        if _from_given(truth) and _of_made(truth):
            return Case(candidate, truth, GIVEN, ("actions", "camera"))
    raise nothing_to_ask("voxel", size)


def _ends(truth: Episode) -> range:
    """The last frames of the latents after those given."""
    return range(GIVEN + 3, len(truth.video), 4)


def _from_given(truth: Episode) -> _Pairs:
    """The last given frame, and later ones that show some of it again."""
    return _compared(truth, [(GIVEN - 1, j) for j in _ends(truth)])


def _of_made(truth: Episode) -> _Pairs:
    ends = _ends(truth)
    return _compared(truth, [(i, j) for i in ends for j in ends if i < j])


def _compared(truth: Episode, pairs: Sequence[tuple[int, int]]) -> _Pairs:
    """Those that share enough, seen from places that are far enough apart."""
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
    given, made = _from_given(truth), _of_made(truth)
    values = {
        "scene error": float(np.mean([_residual(video, *pair) for pair in given])),
        "scene displacement": _displacement(case, video, given),
        "reprojection error": float(np.mean([_unexplained(video, *p) for p in made])),
        "displacement": _displacement(case, video, made),
    }
    views = [shared(truth, GIVEN - 1, j) for j in range(GIVEN, len(video))]
    curves = []
    for each in (truth.video, video):
        curve = np.full(len(video), np.nan)
        curve[GIVEN:] = [
            _residual(each, GIVEN - 1, GIVEN + k, view)
            if view.both.mean() > _COVISIBLE
            else np.nan
            for k, view in enumerate(views)
        ]
        curves.append(curve)
    return Score(values, {"scene error": (curves[0], curves[1])})


def _warped(video: Video, other: int, view: Shared) -> np.ndarray:
    """Frame `other` as it is seen from a view's place; NaN outside of it."""
    picture = video[other : other + 1].astype(np.float32)
    return look_up(picture, view.x[None], view.y[None])[0]


def _residual(video: Video, other: int, frame: int, view: Shared) -> float:
    """Of 255: the mean difference of what both frames show."""
    warped = _warped(video, other, view)
    return float(np.abs(warped - video[frame])[view.both].mean())


def _unexplained(video: Video, other: int, frame: int, view: Shared) -> float:
    """The residual as a share of the change between the frames, at most 1.

    A clip that stands still does not change, and has 1: the camera does not explain it.
    """
    change = video[other].astype(np.float32) - video[frame]
    before = float(np.abs(change)[view.both].mean())
    if before < _NOTHING:
        return 1.0
    return min(_residual(video, other, frame, view) / before, 1.0)


def _displacement(case: Case, video: Video, pairs: _Pairs) -> float:
    """Pixels from where textured blocks must be to where they are."""
    away = []
    for other, frame, view in pairs:
        warped = np.nan_to_num(_warped(video, other, view))
        apart = displacement(warped, video[frame].astype(np.float32), view.both)
        true_frame = case.truth.video[frame].astype(np.float32)
        away += apart[contrast(true_frame, view.both) > _TEXTURED].tolist()
    return float(np.mean(away)) if away else np.nan


FAMILY = Family(
    what=f"the camera circles, flies or turns on after {GIVEN} given frames",
    measures={
        "scene error": Measure(
            unit="of 255",
            what="from what the last given frame shows, where it must be seen again",
        ),
        "scene displacement": Measure(
            unit="px", what="of what the last given frame shows, from where it must be"
        ),
        "reprojection error": Measure(
            unit="share",
            what="of the change between made frames that the camera does not explain",
        ),
        "displacement": Measure(
            unit="px",
            what="of what a made frame shows, in another, from where it must be",
        ),
    },
    case=case,
    score=score,
)

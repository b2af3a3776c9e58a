"""The family `permanence`: shapes behind a wall must come back in place, unchanged."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from data_pipelines.worlds import occlusion
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench.cases import (
    Case,
    Family,
    Measure,
    Score,
    candidates,
    half_diagonal,
    nothing_to_ask,
)
from soraxla.evals.worldbench.tracking import (
    background,
    count_things,
    track,
    true_tracks,
)

_HIDDEN, _BACK = 0.02, 0.9  # visible share of a shape
_LEAST = 5  # the fewest condition frames that show a direction
_ALIKE = (0.5, 2.0)  # times the true area of a shape that is found


class _Return(NamedTuple):
    hidden: int  # the first frame in which the first shape is out of view
    back: Bool[np.ndarray, "t n"]  # in view after being hidden


def _returns(truth: Episode, condition_frames: int) -> _Return | None:
    """Returns the shapes that come back after the condition frames, or None."""
    visible = truth.state["visible"]
    gone = visible < _HIDDEN
    later = np.arange(len(visible))[:, None] >= condition_frames
    back = (np.cumsum(gone, 0) > 0) & (visible > _BACK) & later
    returning = back.any(0)
    if not returning.any():
        return None
    return _Return(int(np.argmax(gone[:, returning].any(1))), back)


def case(seed: int, size: Size) -> Case:
    """Returns a clip with whole condition latents until a returning shape is hidden."""
    for candidate in candidates(seed) if size.frames > _LEAST else ():
        truth = occlusion.simulate(candidate, **size._asdict())
        returns = _returns(truth, 0)
        if returns is None:
            continue
        condition_frames = 1 + returns.hidden // 4 * 4
        if condition_frames >= _LEAST and _returns(truth, condition_frames) is not None:
            return Case(candidate, truth, condition_frames)
    raise nothing_to_ask("occlusion", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth = case.truth
    returns = _returns(truth, case.condition_frames)
    assert returns is not None
    back = returns.back
    colours = [str(name) for name in truth.state["colour"]]
    back_picture = background(truth)
    true, tracked = (
        true_tracks(truth, len(colours)),
        track(video, back_picture, colours),
    )
    limit = half_diagonal(video)
    low, high = (share * true.area for share in _ALIKE)
    found = (tracked.area >= low) & (tracked.area <= high) & (tracked.area > 0)
    away = np.linalg.norm(tracked.position - true.position, axis=-1)
    away = np.where(found, np.fmin(away, limit), limit)
    smallest = 0.3 * float(true.area[back].min())
    frames = back.any(1)
    counts = [
        count_things(v[frames], back_picture, smallest) for v in (video, truth.video)
    ]
    values = {
        "position error": float(away[back].mean()),
        "colour found": float(found[back].mean()),
        "count error": float(np.abs(counts[0] - counts[1]).mean()),
    }
    curves = {
        f"{colours[k]} {axis}": (true.position[:, k, i], tracked.position[:, k, i])
        for k in np.flatnonzero(back.any(0))
        for i, axis in enumerate("xy")
    }
    return Score(values, curves)


FAMILY = Family(
    what="shapes go behind a wall after the condition frames, and must return",
    measures={
        "position error": Measure(
            unit="px",
            what="from the true position, in view again; missing: half the diagonal",
        ),
        "colour found": Measure(
            unit="share",
            what="of frames in which the shape is back in its colour and size",
            higher=True,
        ),
        "count error": Measure(
            unit="shapes", what="more or fewer than in truth when one is back"
        ),
    },
    case=case,
    score=score,
)

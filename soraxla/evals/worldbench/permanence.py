"""Do shapes that pass behind a wall come back where they must, and as they were?"""

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

_HIDDEN, _BACK = 0.02, 0.9  # share of a shape in view
_LEAST = 5  # frames given, from which a way can be told
_ALIKE = (0.5, 2.0)  # times the true area: the shape is there


class _Return(NamedTuple):
    hidden: int  # the first frame in which the first shape is out of view
    back: Bool[np.ndarray, "t n"]  # in view after having been hidden


def _returns(truth: Episode, given: int) -> _Return | None:
    """What comes back after the first `given` frames, if a shape does."""
    visible = truth.state["visible"]
    gone = visible < _HIDDEN
    later = np.arange(len(visible))[:, None] >= given
    back = (np.cumsum(gone, 0) > 0) & (visible > _BACK) & later
    returning = back.any(0)
    if not returning.any():
        return None
    return _Return(int(np.argmax(gone[:, returning].any(1))), back)


def case(seed: int, size: Size) -> Case:
    """Given are whole latents until the first shape that comes back is out of view."""
    for candidate in candidates(seed) if size.frames > _LEAST else ():
        truth = occlusion.simulate(candidate, **size._asdict())
        returns = _returns(truth, 0)
        if returns is None:
            continue
        given = 1 + returns.hidden // 4 * 4
        if given >= _LEAST and _returns(truth, given) is not None:
            return Case(candidate, truth, given)
    raise nothing_to_ask("occlusion", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth = case.truth
    returns = _returns(truth, case.given)
    assert returns is not None
    back = returns.back
    colours = [str(name) for name in truth.state["colour"]]
    behind = background(truth)
    there, made = true_tracks(truth, len(colours)), track(video, behind, colours)
    limit = half_diagonal(video)
    low, high = (share * there.area for share in _ALIKE)
    found = (made.area >= low) & (made.area <= high) & (made.area > 0)
    away = np.linalg.norm(made.position - there.position, axis=-1)
    away = np.where(found, np.fmin(away, limit), limit)
    smallest = 0.3 * float(there.area[back].min())
    frames = back.any(1)
    counts = [count_things(v[frames], behind, smallest) for v in (video, truth.video)]
    values = {
        "position error": float(away[back].mean()),
        "colour found": float(found[back].mean()),
        "count error": float(np.abs(counts[0] - counts[1]).mean()),
    }
    curves = {
        f"{colours[k]} {axis}": (there.position[:, k, i], made.position[:, k, i])
        for k in np.flatnonzero(back.any(0))
        for i, axis in enumerate("xy")
    }
    return Score(values, curves)


FAMILY = Family(
    what="shapes go behind a wall after the given frames, and must come back",
    measures={
        "position error": Measure(
            unit="px",
            what="from the true place when in view again; not there: half the diagonal",
        ),
        "colour found": Measure(
            unit="share",
            what="of frames in which the shape is there again in its colour and size",
            higher=True,
        ),
        "count error": Measure(
            unit="shapes", what="more or fewer than there are when one is back"
        ),
    },
    case=case,
    score=score,
)

"""Do strokes and bites stay, and does all else stay as it is?"""

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import marks
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
from soraxla.evals.worldbench.tracking import masked_median

_LEAST = 12  # pixels marked in the given frames, and again after them
_CHANGED = 40.0  # in RGB: another look
_TOOL = 2  # in the ids of a stroke


def case(seed: int, size: Size) -> Case:
    """Given is the first half; it has marks, and more come."""
    given = 1 + (size.frames - 1) // 8 * 4
    for candidate in candidates(seed) if given > 1 else ():
        truth = marks.simulate(candidate, **size._asdict())
        area = truth.state["marked"].sum((1, 2))
        if area[given - 1] >= _LEAST and area[-1] - area[given - 1] >= _LEAST:
            return Case(candidate, truth, given)
    raise nothing_to_ask("marks", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, marked = case.truth, case.truth.state["marked"]
    old, rest = marked[case.given - 1], ~marked[-1]
    bare, changed = _looks(truth)
    end, true_end = _end(video), _end(truth.video)
    kept = _kept(end[None], bare, changed)[0] & old
    given = masked_median(truth.video, _shown(case))
    fresh, due = (
        int(((np.linalg.norm(look - given, axis=-1) > _CHANGED) & ~old).sum())
        for look in (end, true_end)
    )
    values = {
        "marks kept": float(kept.sum() / old.sum()),
        "rest changed": float(np.median(np.abs(end - true_end)[rest])),
        "new marks error": float(min(abs(fresh - due) / max(due, 1), 1)),
    }
    over_time = [
        (_kept(v.astype(np.float32), bare, changed) & marked[-1]).mean((1, 2))
        for v in (truth.video, video)
    ]
    return Score(values, {"marked share": (over_time[0], over_time[1])})


def _tool(truth: Episode) -> Bool[np.ndarray, "t h w"]:
    """Where something is held over the picture; food has one object, its ids are 1."""
    return truth.ids == _TOOL


def _shown(case: Case) -> Bool[np.ndarray, "t h w"]:
    """The last quarter of the given frames, without the tool."""
    shown = ~_tool(case.truth)
    shown[: case.given - max(case.given // 4, 1)] = False
    shown[case.given :] = False
    return shown


def _end(video: Video) -> Float[np.ndarray, "h w 3"]:
    """The look of the last quarter."""
    return np.median(video[-max(len(video) // 4, 1) :], axis=0).astype(np.float32)


def _looks(
    truth: Episode,
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]]:
    """Each pixel before it is marked, and after."""
    seen, marked = ~_tool(truth), truth.state["marked"]
    before = masked_median(truth.video, seen & ~marked)
    return before, masked_median(truth.video, seen & marked)


def _kept(
    pixels: Float[np.ndarray, "t h w 3"],
    bare: Float[np.ndarray, "h w 3"],
    changed: Float[np.ndarray, "h w 3"],
) -> Bool[np.ndarray, "t h w"]:
    """Nearer to the marked look than to the bare one."""
    away = [np.linalg.norm(pixels - look[None], axis=-1) for look in (bare, changed)]
    return away[1] < away[0]


FAMILY = Family(
    what="a tool has drawn, or food was bitten, in the given first half",
    measures={
        "marks kept": Measure(
            unit="share",
            what="of the given marked pixels, in the last quarter",
            higher=True,
            copies=False,
        ),
        "rest changed": Measure(
            unit="of 255",
            what="the middle change of what is never marked, in the last quarter",
            copies=False,
        ),
        "new marks error": Measure(
            unit="share",
            what="of the pixels that are newly marked in truth; 1 is none, or worse",
        ),
    },
    case=case,
    score=score,
)

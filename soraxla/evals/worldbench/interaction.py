"""The family `interaction`: strokes and bites must stay, and all else as it is."""

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

_LEAST = 12  # pixels marked in the condition frames, and in later frames
_CHANGED = 40.0  # in RGB: a changed look
_TOOL = 2  # in the ids of a stroke


def case(seed: int, size: Size) -> Case:
    """Returns a clip whose first half has marks, and whose second half adds more."""
    condition_frames = 1 + (size.frames - 1) // 8 * 4
    for candidate in candidates(seed) if condition_frames > 1 else ():
        truth = marks.simulate(candidate, **size._asdict())
        area = truth.state["marked"].sum((1, 2))
        if (
            area[condition_frames - 1] >= _LEAST
            and area[-1] - area[condition_frames - 1] >= _LEAST
        ):
            return Case(candidate, truth, condition_frames)
    raise nothing_to_ask("marks", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, marked = case.truth, case.truth.state["marked"]
    old, rest = marked[case.condition_frames - 1], ~marked[-1]
    bare, changed = _looks(truth)
    end, true_end = _end(video), _end(truth.video)
    kept = _kept(end[None], bare, changed)[0] & old
    condition_look = masked_median(truth.video, _shown(case))
    fresh, due = (
        int(((np.linalg.norm(look - condition_look, axis=-1) > _CHANGED) & ~old).sum())
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
    """Returns the pixels of the tool; food has one object, and its ids are 1."""
    return truth.ids == _TOOL


def _shown(case: Case) -> Bool[np.ndarray, "t h w"]:
    """Returns the last quarter of the condition frames, without the tool."""
    shown = ~_tool(case.truth)
    shown[: case.condition_frames - max(case.condition_frames // 4, 1)] = False
    shown[case.condition_frames :] = False
    return shown


def _end(video: Video) -> Float[np.ndarray, "h w 3"]:
    """Returns the look of the last quarter."""
    return np.median(video[-max(len(video) // 4, 1) :], axis=0).astype(np.float32)


def _looks(
    truth: Episode,
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]]:
    """Returns each pixel's look before and after it is marked."""
    seen, marked = ~_tool(truth), truth.state["marked"]
    before = masked_median(truth.video, seen & ~marked)
    return before, masked_median(truth.video, seen & marked)


def _kept(
    pixels: Float[np.ndarray, "t h w 3"],
    bare: Float[np.ndarray, "h w 3"],
    changed: Float[np.ndarray, "h w 3"],
) -> Bool[np.ndarray, "t h w"]:
    """Returns the pixels that are nearer to the marked look than to the bare one."""
    away = [np.linalg.norm(pixels - look[None], axis=-1) for look in (bare, changed)]
    return away[1] < away[0]


FAMILY = Family(
    what="a tool has drawn, or food was bitten, in the first half",
    measures={
        "marks kept": Measure(
            unit="share",
            what="of pixels marked in the first half, in the last quarter",
            higher=True,
            copies=False,
        ),
        "rest changed": Measure(
            unit="of 255",
            what="the median change of never marked pixels, in the last quarter",
            copies=False,
        ),
        "new marks error": Measure(
            unit="share",
            what="of the pixels that the truth marks later; 1 is none, or worse",
        ),
    },
    case=case,
    score=score,
)

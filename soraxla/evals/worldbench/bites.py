"""The family `bites`: each bite takes a piece of the food, which does not grow back."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

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

CONDITION_FRAMES = 5  # frames, 2 latents: they show the food
_PLATE = np.array((228.0, 228.0, 232.0), np.float32)
_SHADES = (0.62, 1.05)  # of the plate, in the food's shadow and in light
_LEAST = 0.03  # of the food: a bite
_STEP, _MOVES = (
    0.5,
    0.1,
)  # of the smallest bite: a bite, and a change that belongs to it


def case(seed: int, size: Size) -> Case:
    """Returns food that is whole in the condition frames, and bitten later."""
    for candidate in candidates(seed) if size.frames >= CONDITION_FRAMES + 8 else ():
        truth = marks.simulate(candidate, **size._asdict())
        eaten = np.diff(truth.state.get("eaten", np.zeros(size.frames)))
        sizes = eaten[eaten > 0]
        if len(sizes) != len(truth.state.get("bite_time", ())) or not len(sizes):
            continue
        if sizes.min() >= _LEAST and not eaten[: CONDITION_FRAMES - 1].any():
            return Case(candidate, truth, CONDITION_FRAMES)
    raise nothing_to_ask("marks", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, count = case.truth, len(case.truth.state["bite_time"])
    true, seen = left(truth.video, truth), left(video, truth)
    seen[: case.condition_frames] = true[: case.condition_frames]
    end = slice(-max(len(video) // 8, 1), None)
    off = seen[end].mean() - true[end].mean()
    values = {
        "bites error": float(min(_bites_error(true, seen, count), count)),
        "eaten error": float(min(abs(off) / true[0], 1.0)),
    }
    curves = {"food left, percent": (100 * true / true[0], 100 * seen / true[0])}
    return Score(values, curves)


def left(video: Video, truth: Episode) -> Float[np.ndarray, " t"]:
    """Returns the pixels that look more like the whole food than like the plate."""
    food = truth.ids[0] == 1
    look = truth.video[0][food].astype(np.float32)
    pixels = video[:, food].astype(np.float32)
    shade = ((pixels @ _PLATE) / (_PLATE @ _PLATE)).clip(*_SHADES)
    bare = np.linalg.norm(pixels - shade[..., None] * _PLATE, axis=-1)
    return (np.linalg.norm(pixels - look[None], axis=-1) <= bare).sum(1).astype(float)


def _bites_error(
    true: Float[np.ndarray, " t"], seen: Float[np.ndarray, " t"], count: int
) -> int:
    """Returns bites more or fewer than in truth, plus those that grew back."""
    steps = -np.diff(true)
    sizes = steps[steps > _LEAST / 2 * true[0]]
    taken = grown = 0
    for change in _runs(-np.diff(seen), _MOVES * sizes.min()):
        if abs(change) >= _STEP * sizes.min():
            bites = max(round(abs(change) / sizes.mean()), 1)
            taken, grown = taken + bites * (change > 0), grown + bites * (change < 0)
    return abs(taken - count) + grown


def _runs(steps: Float[np.ndarray, " n"], least: float) -> list[float]:
    """Returns the sums of neighbouring steps of one sign that exceed `least`."""
    sums, sign = [], 0.0
    for step in steps:
        now = float(np.sign(step)) if abs(step) > least else 0.0
        if now and now == sign:
            sums[-1] += float(step)
        elif now:
            sums.append(float(step))
        sign = now
    return sums


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Returns the share of clips with the commonest number of bites."""
    numbers = Counter(len(case.truth.state["bite_time"]) for case in cases)
    return {"best constant number": numbers.most_common(1)[0][1] / len(cases)}


FAMILY = Family(
    what=f"food is bitten after {CONDITION_FRAMES} frames, as often as the prompt says",
    measures={
        "bites error": Measure(
            unit="bites",
            what="more or fewer than in truth, or that grow back; at most all of them",
        ),
        "eaten error": Measure(
            unit="share", what="of the food, too much or too little left at the end"
        ),
    },
    case=case,
    score=score,
    chance=chance,
)

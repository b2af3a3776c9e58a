"""The family `glass`: a thing that breaks leaves its pieces, and no others."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.worlds import effects
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
from soraxla.evals.worldbench.patches import areas
from soraxla.evals.worldbench.tracking import background, coloured

_LEAST = 5  # condition frames that show a fall
_SMALLEST = 0.35  # of the smallest piece: a piece


class Pieces(NamedTuple):
    """The number and the pixels of the patches in a thing's colour, per frame."""

    count: Float[np.ndarray, " t"]
    area: Float[np.ndarray, " t"]


def case(seed: int, size: Size) -> Case:
    """Returns a thing that breaks after the condition frames, which show its fall."""
    for candidate in candidates(seed) if size.frames > _LEAST + 4 else ():
        truth = effects.simulate(candidate, **size._asdict(), scene="glass")
        whole = int((~np.isnan(truth.state["position"][:, 0])).sum())
        condition_frames = 1 + (whole - 1) // 4 * 4
        if condition_frames >= _LEAST:
            return Case(candidate, truth, condition_frames)
    raise nothing_to_ask("effects", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, count = case.truth, int(case.truth.state["pieces"])
    seen, given = pieces(video, truth), truth.ids[: case.condition_frames] > 0
    whole = float(np.median(given.sum((1, 2))))
    end = slice(-max(len(video) // 4, 1), None)  # at rest
    off = np.fmin(np.abs(seen.count[end] - count), count)
    values = {
        "pieces error": float(off.mean()),
        "area error": float(min(abs(seen.area[end].mean() / whole - 1), 1.0)),
    }
    broken = np.isnan(truth.state["position"][:, 0])
    curves = {"pieces": (np.where(broken, count, 1.0), seen.count)}
    return Score(values, curves, f"{seen.count[end].mean():.1f} pieces at the end")


def pieces(video: Video, truth: Episode) -> Pieces:
    """Returns the patches of the thing's colour, before the true background."""
    [masks] = coloured(video, background(truth), [str(truth.state["colour"])])
    last = np.bincount(truth.ids[-1].ravel())[1:]
    found = [areas(mask) for mask in masks]
    return Pieces(
        np.array([(each >= _SMALLEST * last.min()).sum() for each in found], float),
        masks.sum((1, 2)).astype(float),
    )


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Returns the share of clips with the commonest number of pieces."""
    numbers = Counter(int(case.truth.state["pieces"]) for case in cases)
    return {"best constant number": numbers.most_common(1)[0][1] / len(cases)}


FAMILY = Family(
    what="a glass, a vase or a bowl breaks after the condition frames",
    measures={
        "pieces error": Measure(
            unit="pieces",
            what="more or fewer than in truth, in the last quarter; at most all",
        ),
        "area error": Measure(
            unit="share",
            what="of the whole thing's area, missing or too much in its pieces",
            copies=False,
        ),
    },
    case=case,
    score=score,
    chance=chance,
)

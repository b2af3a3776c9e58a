"""Statistics: from clips' scores to normalised scores with confidence intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from soraxla.evals.metrics.metric import RESAMPLES
from soraxla.evals.worldbench.cases import Measure, Score

_LEAST = 1e-6  # the least gap between floor and ceiling, relative to the larger


class Interval(NamedTuple):
    """A number and the 95 % interval of the bootstrap over clips (Efron, 1979)."""

    value: float
    low: float
    high: float


class Number(NamedTuple):
    """The results of a measure; means over clips.

    `normalised` is the normalised score (floor − value) / (floor − ceiling): 0 at the
    floor and 1 at the ceiling, NaN if the ceiling is no better than the floor.
    """

    value: Interval
    ceiling: float
    floors: dict[str, float]
    floor: str  # the name of the floor nearer to the ceiling
    normalised: Interval
    clips: int  # clips with something to measure


def summarise(
    measures: Mapping[str, Measure], scores: Mapping[str, Sequence[Score]]
) -> dict[str, Number]:
    """Returns the numbers of a family, from the scores of its clips by source."""
    picks = np.random.default_rng(0).integers(
        len(scores["model"]), size=(RESAMPLES, len(scores["model"]))
    )
    return {
        name: _number(
            measure,
            {
                source: np.array([score.values[name] for score in each])
                for source, each in scores.items()
            },
            picks,
        )
        for name, measure in measures.items()
    }


def family_scores(numbers: Mapping[str, Number]) -> dict[str, float]:
    """Returns the mean and the least normalised score, each held between 0 and 1."""
    scores = np.array([number.normalised.value for number in numbers.values()]).clip(
        0, 1
    )
    return {"mean": float(_mean(scores)), "least": float(np.fmin.reduce(scores))}


def _number(
    measure: Measure,
    values: Mapping[str, Float[np.ndarray, " n"]],
    picks: Int[np.ndarray, "d n"],
) -> Number:
    means = {source: float(_mean(each)) for source, each in values.items()}
    names = ("copied", "shuffled") if measure.copies else ("shuffled",)
    floors = {name: means[name] for name in names}
    best = max if measure.higher else min
    floor = best(floors, key=lambda name: np.nan_to_num(floors[name]))
    draws = {source: _mean(each[picks]) for source, each in values.items()}
    scores = _normalised(draws["model"], draws[floor], draws["ceiling"], measure.higher)
    at = {source: np.array(mean) for source, mean in means.items()}
    score = _normalised(at["model"], at[floor], at["ceiling"], measure.higher)
    return Number(
        value=_interval(means["model"], draws["model"]),
        ceiling=means["ceiling"],
        floors=floors,
        floor=floor,
        normalised=_interval(float(score), scores),
        clips=int((~np.isnan(values["model"])).sum()),
    )


def _normalised(
    value: Float[np.ndarray, "..."],
    floor: Float[np.ndarray, "..."],
    ceiling: Float[np.ndarray, "..."],
    higher: bool,
) -> Float[np.ndarray, "..."]:
    room = (ceiling - floor) if higher else (floor - ceiling)
    least = _LEAST * np.maximum(np.abs(floor), np.abs(ceiling))
    gained = (value - floor) if higher else (floor - value)
    return np.where(room > least, gained / np.where(room > least, room, 1), np.nan)


def _interval(value: float, draws: Float[np.ndarray, " d"]) -> Interval:
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, (0.025, 0.975)) if len(draws) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def _mean(values: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b"]:
    """Returns the mean over the last axis without NaNs; NaN if there is nothing."""
    valid = ~np.isnan(values)
    times = np.where(valid.any(-1), valid.sum(-1), np.nan)
    return np.asarray(np.nansum(values, -1) / times)

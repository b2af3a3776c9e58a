"""From clips' scores to numbers between floors and ceilings, and how sure they are."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from soraxla.evals.worldbench.cases import Measure, Score

_DRAWS = 2000  # of the bootstrap
_LEAST = 1e-6  # between floor and ceiling, of the larger: else there is nothing between


class Interval(NamedTuple):
    """A number and the 95 % of the bootstrap over clips (Efron, 1979)."""

    value: float
    low: float
    high: float


class Number(NamedTuple):
    """What a measure came to; means over clips.

    `way` is (floor − value) / (floor − ceiling): 0 at the floor and 1 at the ceiling,
    NaN where the ceiling is no better than the floor.
    """

    value: Interval
    ceiling: float
    floors: dict[str, float]
    floor: str  # the one nearer to the ceiling
    way: Interval
    clips: int  # that show what is measured


def summarise(
    measures: Mapping[str, Measure], scores: Mapping[str, Sequence[Score]]
) -> dict[str, Number]:
    """The numbers of a family, from the scores of its clips by source."""
    picks = np.random.default_rng(0).integers(
        len(scores["model"]), size=(_DRAWS, len(scores["model"]))
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


def family_ways(numbers: Mapping[str, Number]) -> dict[str, float]:
    """The mean and the least way of a family's measures, each held between 0 and 1."""
    ways = np.array([number.way.value for number in numbers.values()]).clip(0, 1)
    return {"mean": float(_mean(ways)), "least": float(np.fmin.reduce(ways))}


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
    ways = _way(draws["model"], draws[floor], draws["ceiling"], measure.higher)
    at = {source: np.array(mean) for source, mean in means.items()}
    way = _way(at["model"], at[floor], at["ceiling"], measure.higher)
    return Number(
        value=_interval(means["model"], draws["model"]),
        ceiling=means["ceiling"],
        floors=floors,
        floor=floor,
        way=_interval(float(way), ways),
        clips=int((~np.isnan(values["model"])).sum()),
    )


def _way(
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
    """Over the last axis, of what is a number; NaN of nothing."""
    there = ~np.isnan(values)
    times = np.where(there.any(-1), there.sum(-1), np.nan)
    return np.asarray(np.nansum(values, -1) / times)

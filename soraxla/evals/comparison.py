"""The comparison of two runs, clip by clip."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import (
    Metric,
    SetMetric,
    interval,
    pair_of,
    resamples,
    stacked,
)


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Metric]:
    """Returns the differences of two runs' metrics, second − first, with intervals.

    Runs of one metric are resampled together: the same clips where the names agree, so
    that the difference of two models on the same prompts is paired.

    Args:
        one, other: `read_run` of two folders.

    Raises:
        UserError: they share no metric, or the metrics differ in features or clips.
    """
    shared = [name for name in one["metrics"] if name in other["metrics"]]
    if not shared:
        raise UserError(
            f"the runs share no metric: {', '.join(one['metrics'])} and "
            f"{', '.join(other['metrics'])}; measure both with the same --metrics"
        )
    if one["extractors"] != other["extractors"]:
        raise UserError(
            "the runs have other feature weights, whose distances cannot be compared; "
            "measure both with the same --features"
        )
    return {name: _difference(name, one, other) for name in shared}


def _difference(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Metric:
    metric: SetMetric = one["metrics"][name]
    rows = [run["rows"][name] for run in (one, other)]
    if rows[0].keys() != rows[1].keys():
        raise UserError(
            f"the runs of {name!r} have clips of other names, expected the same "
            "prompts; generate both sets from one prompts file"
        )
    references = [run["reference_rows"].get(name) for run in (one, other)]
    sets = [
        metric.prepared(stacked(each))
        for each in (*rows, *references)
        if each is not None
    ]
    value = _second_less_first(metric, sets)
    sets = metric.condensed(sets)
    counts = [len(each) for each in sets[::2]]
    draws = []
    for picks in resamples(counts[0], counts[1] if len(counts) > 1 else 0):
        chosen = [each[picks[i // 2]] for i, each in enumerate(sets)]
        draws.append(_second_less_first(metric, chosen))
    low, high = interval(value, np.array(draws))
    return Metric(value, low, high, counts[0])


def _second_less_first(metric: SetMetric, sets: Sequence[np.ndarray]) -> float:
    """Returns the difference of two runs' statistics.

    Args:
        sets: the first run's rows, the second's, and those of their references, if any.
    """
    first, second = (metric.statistic(*pair_of(sets[i::2])) for i in (0, 1))
    return second - first

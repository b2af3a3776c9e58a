"""The comparison of two runs, clip by clip."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import (
    Metric,
    SetMetric,
    interval,
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
    first, second = (metric.prepared(stacked(each)) for each in rows)
    references = [run["reference_rows"].get(name) for run in (one, other)]
    a, b = (
        None if rows is None else metric.prepared(stacked(rows)) for rows in references
    )
    value = metric.statistic(second, b) - metric.statistic(first, a)
    draws = []
    for picks, others in resamples(len(first), 0 if a is None else len(a)):
        pair = (
            metric.statistic(x[picks], None if r is None else r[others])
            for x, r in ((first, a), (second, b))
        )
        before, after = pair
        draws.append(after - before)
    low, high = interval(value, np.array(draws))
    return Metric(value, low, high, len(first))

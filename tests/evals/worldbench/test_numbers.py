"""A way is where a value stands between its floor and its ceiling."""

import numpy as np
import pytest

from soraxla.evals.worldbench.cases import Measure, Score
from soraxla.evals.worldbench.numbers import family_scores, summarise

LOWER = Measure(unit="px", what="an error")
HIGHER = Measure(unit="share", what="a share", higher=True, copies=False)


def scores(**values):
    return {
        source: [Score({"x": float(v)}, {}) for v in each]
        for source, each in values.items()
    }


def number(measure, **values):
    return summarise({"x": measure}, scores(**values))["x"]


def test_the_better_floor_is_the_one_that_counts():
    found = number(LOWER, model=[3, 5], ceiling=[1, 1], copied=[9, 11], shuffled=[6, 8])
    assert found.floor == "shuffled" and found.floors == {"copied": 10, "shuffled": 7}
    assert found.normalised.value == pytest.approx((7 - 4) / (7 - 1))
    found = number(
        HIGHER, model=[0.5, 0.7], ceiling=[1, 1], copied=[1, 1], shuffled=[0, 0.4]
    )
    assert found.floor == "shuffled"  # a copy is no floor of what a copy keeps
    assert found.normalised.value == pytest.approx((0.6 - 0.2) / (1 - 0.2))


def test_clips_that_show_nothing_to_measure_do_not_count():
    found = number(
        LOWER,
        model=[2, np.nan, 4],
        ceiling=[0, np.nan, 0],
        copied=[6, np.nan, 6],
        shuffled=[9, np.nan, 9],
    )
    assert (found.value.value, found.clips) == (3.0, 2)
    assert found.normalised.value == pytest.approx(0.5)


def test_where_the_ceiling_is_no_better_than_the_floor_there_is_no_way():
    found = number(LOWER, model=[1], ceiling=[2], copied=[2], shuffled=[3])
    assert np.isnan(found.normalised.value)


def test_the_interval_is_the_bootstraps():
    """The interval of a mean of many values is 1.96 standard errors to both sides."""
    rng = np.random.default_rng(0)
    model = rng.normal(5, 1, 400)
    ones = np.ones(400)
    found = number(
        LOWER, model=model, ceiling=0 * ones, copied=10 * ones, shuffled=10 * ones
    )
    low, high = found.value.low, found.value.high
    assert high - low == pytest.approx(2 * 1.96 * model.std() / 20, rel=0.1)
    assert (10 - high) / 10 == pytest.approx(found.normalised.low)


def test_a_family_is_the_mean_and_the_least_of_its_measures():
    made = scores(model=[1, 1], ceiling=[0, 0], copied=[2, 2], shuffled=[2, 2])
    half = summarise({"x": LOWER}, made)["x"]
    made = scores(model=[9, 9], ceiling=[0, 0], copied=[2, 2], shuffled=[2, 2])
    below = summarise({"x": LOWER}, made)["x"]
    assert family_scores({"a": half, "b": below}) == {"mean": 0.25, "least": 0.0}

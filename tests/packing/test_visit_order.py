"""The order of visits to several datasets: shares, epochs and access at any place."""

from itertools import pairwise

import numpy as np
import pytest

from soraxla.core.errors import UserError
from soraxla.packing.visit_order import Stage, Stream, VisitOrder, one_dataset, shares

SIZES, WEIGHTS = (7, 40, 1), (0.7, 0.25, 0.05)
FIRSTS = (0, 7, 47)
EPOCHS = [5, 1, 3, 4, 2, 0, 6, 5, 6, 2, 1, 3, 4, 0]


def order(sizes=SIZES, weights=WEIGHTS):
    streams, first = [], 0
    for size, visits in zip(sizes, shares(weights), strict=True):
        stages = (Stage(0, size),)
        streams.append(Stream(first=first, stages=stages, visits=visits))
        first += size
    return VisitOrder(streams=tuple(streams))


def dataset_of(samples):
    return np.searchsorted(FIRSTS, samples, side="right") - 1


def test_any_run_of_visits_has_the_shares_of_the_weights():
    labels = dataset_of(order().samples(3, 0, 25_000))
    for number, weight in enumerate(WEIGHTS):
        counts = np.concatenate([[0], np.cumsum(labels == number)])
        assert counts[10_000] == round(10_000 * weight) == counts[20_000] / 2
        for length in (20, 450, 9000):
            found = counts[length:] - counts[:-length]
            assert np.abs(found - length * weight).max() < 3.001


def test_the_visits_to_each_dataset_are_epochs_of_all_its_samples():
    samples = order().samples(3, 0, 3000)
    labels = dataset_of(samples)
    for number, (first, size) in enumerate(zip(FIRSTS, SIZES, strict=True)):
        own = samples[labels == number] - first
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert len(epochs) > 10
        np.testing.assert_array_equal(np.sort(epochs), epochs * 0 + np.arange(size))
        assert size == 1 or any((a != b).any() for a, b in pairwise(epochs))


def test_visits_are_the_same_from_any_place():
    whole = order().samples(3, 0, 24_000)
    for first, length in ((0, 1), (1, 300), (9_990, 20), (12_345, 11_000)):
        part = order().samples(3, first, length)
        np.testing.assert_array_equal(part, whole[first : first + length])


def test_one_dataset_of_any_weight_is_visited_as_without_weights():
    expected = one_dataset(7).samples(3, 5, 40)
    np.testing.assert_array_equal(order((7,), (3.0,)).samples(3, 5, 40), expected)
    # As permutations keyed by (seed, "epoch", number) have been in all versions.
    assert one_dataset(7).samples(0, 0, 14).tolist() == EPOCHS


def test_some_samples_keep_the_shares_of_their_datasets():
    kept = np.array([0, 3, 4, 20, 47])
    part = order().subset(kept)
    assert [(s.first, s.stages[0].samples) for s in part.streams] == [
        (0, 3),
        (3, 1),
        (4, 1),
    ]
    assert [s.visits for s in part.streams] == [s.visits for s in order().streams]
    with pytest.raises(UserError, match="no sample of dataset 3 of 3 is left"):
        order().subset(kept[:-1]).check()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 0.0), "the weight 0.0, expected more than 0"),
        ((-1.0,), "the weight -1.0"),
        ((float("nan"),), "the weight nan"),
        (
            (1.0, 1e-6),
            r"1e-06 of 1.0\d* in all, which is less than one visit in 10,000",
        ),
    ],
)
def test_a_weight_that_gives_no_visit_is_refused(weights, message):
    with pytest.raises(UserError, match=message):
        shares(weights)


def test_weights_need_not_sum_to_one():
    assert shares((3.0, 1.0)) == [7500, 2500]
    assert shares((1.0, 1.0, 1.0)) == [3333, 3334, 3333]

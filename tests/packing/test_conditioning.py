"""The conditions of visits: the shares of the table, and never more than a clip has."""

import numpy as np
import pytest

from soraxla.core.keyed_random import uniforms
from soraxla.packing.conditioning import (
    EVERY_TASK,
    GREYED,
    ConditioningMixture,
    Stored,
    conditions_of,
    first_to_arrive,
)
from soraxla.packing.tasks import SHARES

N = 40_000


def drawn(mixture, frames, *, alone=3, tails=2, spatial=1, seed=0):
    u, *each = np.random.default_rng(seed).random((1 + len(SHARES), N, 4))
    chances = {name: x[:, 0] for name, x in zip(SHARES, each, strict=True)}
    frames = np.broadcast_to(np.asarray(frames), (N,))
    full = [np.broadcast_to(np.asarray(x), (N,)) for x in (alone, tails, spatial)]
    return conditions_of(mixture, chances, u, frames, Stored(*full))


def only(task, **changes):
    return ConditioningMixture(**{"none": 0.0, task: 1.0, **changes})


def test_every_task_has_its_share():
    """Few clips are stored with a hole in them."""
    holes = np.random.default_rng(1).random(N) < GREYED
    parts = drawn(EVERY_TASK, 9, spatial=holes)
    assert not parts.spatial[~holes].any()
    found = {
        "none": (parts.prefix == 0) & (parts.appended == 0) & ~parts.spatial,
        "first": (parts.prefix == 1) & (parts.appended == 0),
        "prefix": (parts.prefix > 1) & (parts.appended == 0),
        "tail": (parts.prefix == 0) & (parts.tail > 0),
        "first_last": (parts.prefix == 1) & (parts.frames > 0),
        "both_ends": (parts.prefix > 0) & (parts.tail > 0),
        "frames": (parts.prefix == 0) & (parts.frames > 0),
        "spatial": parts.spatial,
    }
    assert set(found) == set(SHARES)
    assert sum(which.sum() for which in found.values()) == N
    for task, which in found.items():
        assert abs(which.mean() - getattr(EVERY_TASK, task)) < 0.006, task
    windows = parts.start > 0
    assert abs(windows.sum() / found["prefix"].sum() - EVERY_TASK.middle) < 0.02
    assert (parts.prefix[windows] >= 2).all()


def choices(shares):
    """The names of N visits, by numbers that are keyed by the names."""
    chances = {name: uniforms(0, name, 0, N)[:, 0] for name in shares}
    return first_to_arrive(shares, chances, N)


@pytest.mark.parametrize("new", ["a new name", "zzz"])
def test_a_new_share_takes_its_visits_and_moves_no_other(new):
    """The old shares keep their proportions; the order of names changes nothing."""
    old = {"none": 0.5, "first": 0.3, "tail": 0.2}
    before = choices(old)
    for share in (0.0, 0.01, 0.2):
        scaled = {name: s * (1 - share) for name, s in old.items()}
        for shares in ({new: share, **scaled}, {**scaled, new: share}):
            after = choices(shares)
            moved = before != after
            assert set(after[moved]) <= {new}
            assert abs(moved.mean() - share) <= 4 * (share / N) ** 0.5


@pytest.mark.parametrize("task", SHARES)
def test_something_is_always_left_to_generate(task):
    """For clips of any length, down to pictures."""
    frames = np.random.default_rng(1).integers(1, 12, N)
    stored = {
        "alone": np.minimum(frames - 1, 3),
        "tails": (frames >= 3).astype(int) + (frames >= 4),
    }
    parts = drawn(only(task, middle=0.5), frames, **stored)
    assert (parts.start + parts.prefix < frames).all()
    assert (parts.frames < 2 ** stored["alone"]).all()
    assert (parts.tail <= stored["tails"]).all()
    if task not in ("none", "spatial"):  # and a clip that allows the task gets it
        can = frames >= 3
        assert ((parts.prefix + parts.appended)[can] > 0).all()


def test_what_is_given_varies():
    assert set(drawn(only("prefix", middle=0.0), 6).prefix) == {2, 3, 4, 5}
    assert set(drawn(only("prefix", middle=1.0), 6).start) == {1, 2, 3}
    assert set(drawn(only("frames"), 6).frames) == set(range(1, 8))
    assert set(drawn(only("first_last"), 6).frames) == {4}
    assert set(drawn(only("tail"), 6).appended) == {2, 3}
    assert set(drawn(only("both_ends"), 6).prefix) == {2, 3, 4}


@pytest.mark.parametrize("task", SHARES[3:])
def test_what_is_not_stored_is_not_given(task):
    parts = drawn(only(task), 9, alone=0, tails=0, spatial=0)
    assert not any(column.any() for column in parts)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"none": 0.5}, r"make 0\.5, expected 1"),
        ({"first": 0.1}, r"make 1\.1, expected 1"),
        ({"none": 1.2, "first": -0.2}, r"mixture\.none is 1\.2"),
        ({"middle": 2.0}, r"mixture\.middle is 2"),
    ],
)
def test_shares_that_make_no_mixture_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        ConditioningMixture(**shares)

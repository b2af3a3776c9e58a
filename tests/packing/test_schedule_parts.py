"""Draws of a part of a clip: its first latents, or a few of them from anywhere."""

from dataclasses import replace

import numpy as np
import pytest

from soraxla.packing.bin_packing import fill
from soraxla.packing.conditioning import EVERY_TASK, ConditioningMixture, Stored
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule_index import longest
from tests.packing.test_schedule import make_index, plan


@pytest.mark.slow
def test_clips_are_cut_so_that_every_length_gets_as_many_tokens():
    index = make_index([40, 40], frames=6)
    spec = PackConfig(row_length=1000, text_length=999, max_segments=30, cut_share=1.0)
    rows = plan(index, spec, 8)
    visits = [visit for row in rows for visit in row]
    tokens = np.bincount([d.latent_frames for d in visits], [d.tokens for d in visits])
    assert all(d.tokens == 40 * d.latent_frames for d in visits)
    np.testing.assert_allclose(tokens[1:], tokens.sum() / 6, rtol=0.1)
    assert fill(rows, spec) > 0.95 and longest(index, spec) == 6
    # Windows stay as long as they were meant to be.
    assert 100 < len(plan(index, spec, 1)) < 160
    mixed = replace(index, t=np.array([2, 6]))
    short = [d for row in plan(mixed, spec, 8) for d in row if d.sample == 0]
    ones = np.mean([visit.latent_frames == 1 for visit in short])
    assert ones == pytest.approx(2 / 3, abs=0.03)
    two = [d for row in plan(replace(index, patch=(2, 2, 2)), spec, 1) for d in row]
    assert {(d.latent_frames, d.tokens) for d in two} == {(2, 40), (4, 80), (6, 120)}
    half = replace(spec, cut_share=0.5)
    whole = [d.latent_frames == 6 for row in plan(index, half, 8) for d in row]
    assert np.mean(whole) == pytest.approx(0.5 + 0.5 / 6 / 2.45, abs=0.03)


def test_a_few_latents_of_a_clip_come_from_anywhere_in_it():
    index = replace(make_index([40, 40, 40], frames=9), t=np.array([9, 1, 2]))
    spec = PackConfig(row_length=1000, text_length=999, max_segments=60, next_share=1.0)
    visits = [visit for row in plan(index, spec, 10) for visit in row]
    assert all(d.tokens == 40 * d.latent_frames for d in visits)
    assert not any(d.frames or d.tail or d.spatial for d in visits)
    long = [d for d in visits if d.sample == 0]
    assert {(d.prefix, d.latent_frames - d.prefix) for d in long} == {
        (prefix, new) for prefix in (1, 2, 3) for new in (1, 2)
    }
    assert {d.start for d in long} == set(range(8))
    assert max(d.start + d.latent_frames for d in long) == 9
    pictures, pairs = ([d for d in visits if d.sample == i] for i in (1, 2))
    assert {(d.start, d.prefix, d.latent_frames) for d in pictures} == {(0, 0, 1)}
    assert {(d.start, d.prefix, d.latent_frames) for d in pairs} == {(0, 1, 2)}
    # Windows stay about as long as they were meant to be.
    assert 100 < len(plan(replace(index, t=np.full(3, 9)), spec, 1)) < 160
    half = replace(spec, next_share=0.5)
    visits = [d for row in plan(index, half, 8) for d in row if d.sample == 0]
    assert np.mean([d.latent_frames == 9 for d in visits]) == pytest.approx(
        0.5, abs=0.03
    )
    two = replace(index, t=np.full(3, 4), patch=(2, 2, 2))
    with pytest.raises(ValueError, match=r"next_share, but.*next_share to 0"):
        plan(two, half, 1)


def test_a_quarter_of_the_few_lead_into_the_clip_s_end():
    """The mixture has both ends, an end is stored, and it fits the row with them."""
    frames = np.array([9, 9, 3])
    stored = Stored(*(np.array(x) for x in ([0] * 3, [2, 0, 1], [0] * 3)))
    index = replace(make_index([40] * 3, frames=9), t=frames, stored=stored)
    mixture = ConditioningMixture(none=0.5, both_ends=0.5)
    spec = PackConfig(
        row_length=400,
        text_length=999,
        max_segments=60,
        next_share=1.0,
        mixture=mixture,
    )
    visits = [visit for row in plan(index, spec, 30) for visit in row]
    led = [d for d in visits if d.tail]
    assert {d.sample for d in led} == {0, 2}
    of_long = [d for d in led if d.sample == 0]
    assert all(d.start + d.latent_frames == 9 for d in of_long)
    assert {(d.prefix, d.latent_frames - d.prefix) for d in of_long} == {
        (prefix, new) for prefix in (1, 2, 3) for new in (2, 3, 4)
    }
    assert {d.tail for d in of_long} == {1, 2}
    assert all(d.tokens == 40 * (d.latent_frames + 1 + d.tail) for d in led)
    assert {(d.prefix, d.latent_frames) for d in led if d.sample == 2} == {(1, 3)}
    share = len(of_long) / sum(d.sample == 0 for d in visits)
    assert share == pytest.approx(0.25, abs=0.03)
    short = replace(spec, row_length=360)  # ten latents do not fit
    visits = [d for row in plan(index, short, 30) for d in row]
    assert all(d.tokens <= 360 for d in visits) and any(d.tail for d in visits)
    nowhere = replace(spec, mixture=ConditioningMixture())
    assert not any(d.tail for row in plan(index, nowhere, 9) for d in row)


def test_conditions_are_the_same_for_ever():
    """A checkpoint holds only a place: other conditions would silently change a run."""
    stored = Stored(*(np.full(2, n) for n in (3, 2, 1)))
    index = replace(make_index([9, 16], frames=9), stored=stored)
    spec = PackConfig(
        row_length=1024,
        text_length=256,
        max_segments=16,
        next_share=0.2,
        mixture=EVERY_TASK,
    )
    visits = sorted(visit for row in plan(index, spec, 1) for visit in row)
    assert [visit[7:] for visit in visits[:14]] == [
        *((1, 0, 0, False), (0, 0, 0, True), (2, 0, 0, False), (0, 0, 0, True)),
        *((0, 0, 0, True), (0, 0, 0, False), (0, 0, 0, False), (0, 0, 0, False)),
        *((0, 0, 0, True), (1, 4, 0, False), (0, 0, 0, True), (0, 0, 0, True)),
        *((0, 0, 2, False), (0, 0, 0, False)),
    ]

"""The plan: every draw once, from anywhere, in full rows, to devices alike."""

from dataclasses import replace
from itertools import islice

import grain
import numpy as np
import pytest
from grain.experimental import FirstFitPackIterDataset

from benchmarks.sizes import published_sizes
from soraxla.packing.bin_packing import Visit, balance, fill, imbalance, row_cost
from soraxla.packing.conditioning import ConditioningMixture
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule import (
    mean_row_weight,
    schedule_rows,
    schedule_steps,
    schedule_window,
    window_visits,
)
from soraxla.packing.schedule_index import ScheduleIndex
from soraxla.packing.tasks import SHARES
from tests.marks import slow

TEN = [100, 77, 70, 80, 96, 360, 392, 360, 650, 792]  # tokens of ten small samples


def make_index(tokens, *, text=17, frames=1, fps=24.0) -> ScheduleIndex:
    """Samples of `frames` latents of `tokens` patches each, in one line."""
    tokens = np.asarray(tokens, np.int32)
    same = np.ones_like(tokens)
    return ScheduleIndex(
        t=same * frames,
        h=same * 2,
        w=tokens * 2,
        fps=same * fps,
        text_length=np.broadcast_to(np.asarray(text, np.int32), tokens.shape),
        height=same * 16,
        width=tokens * 16,
        empty_text_length=1,
    )


def plan(index, spec, windows, seed=0):
    """The rows of the first windows."""
    return [
        row
        for w in range(windows)
        for row in schedule_window(index, spec, seed=seed, window=w)
    ]


SPEC = PackConfig(row_length=1024, text_length=256, max_segments=16)


@pytest.mark.parametrize("samples", [1, 7, 256, 1000])
def test_every_draw_is_planned_once_and_every_epoch_holds_every_sample(samples):
    index = make_index(np.random.default_rng(1).integers(1, 1024, samples))
    visits = sorted(visit for row in plan(index, SPEC, 8) for visit in row)
    assert [visit.number for visit in visits] == list(range(len(visits)))
    for epoch in range(len(visits) // samples):
        visited = visits[epoch * samples : (epoch + 1) * samples]
        assert sorted(visit.sample for visit in visited) == list(range(samples))


def test_epochs_and_seeds_are_shuffled_differently():
    index = make_index(np.ones(128))
    one, two = [
        [d.sample for d in sorted(d for row in plan(index, SPEC, 1, s) for d in row)]
        for s in (0, 1)
    ]
    assert one[:128] != one[128:] and one != two and one[:128] != sorted(one[:128])


def test_draws_do_not_depend_on_the_window_they_are_planned_in():
    index = make_index(TEN)
    other = PackConfig(row_length=2048, text_length=256, max_segments=16)
    assert window_visits(index, SPEC) != window_visits(index, other)
    visits = [
        sorted(d for r in plan(index, spec, 4) for d in r) for spec in (SPEC, other)
    ]
    shared = min(map(len, visits))
    assert visits[0][:shared] == visits[1][:shared]


@pytest.mark.parametrize(
    ("text_length", "max_segments", "visits"),
    [(256, 16, 1280), (51, 16, 384), (256, 4, 512)],
)
def test_a_window_fills_128_rows_whatever_is_scarce(text_length, max_segments, visits):
    """Samples of 100 tokens and 17 text tokens: 10, 3 or 4 share a row."""
    spec = PackConfig(
        row_length=1000,
        text_length=text_length,
        max_segments=max_segments,
        caption_dropout=0.0,
    )
    index = make_index(np.full(7, 100))
    assert window_visits(index, spec) == visits
    assert len(schedule_window(index, spec, seed=0, window=1)) == 128


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        PackConfig(row_length=900, text_length=60, max_segments=9),  # text is scarce
        PackConfig(row_length=900, text_length=256, max_segments=3),  # segments are
    ],
)
def test_rows_keep_all_three_budgets(spec):
    for row in plan(make_index(TEN), spec, 4):
        assert sum(visit.tokens for visit in row) <= spec.row_length
        assert sum(visit.text_tokens for visit in row) <= spec.text_length
        assert 1 <= len(row) <= spec.max_segments


@pytest.mark.parametrize("batch_rows", [1, 6, 12])
def test_a_plan_resumed_anywhere_continues_the_same(batch_rows):
    sizes = {"batch_rows": batch_rows}
    index = make_index(TEN)
    whole = list(islice(schedule_steps(index, SPEC, seed=3, **sizes), 60))
    for step in (0, 1, 14, 15, 16, 40):
        again = schedule_steps(index, SPEC, seed=3, start=whole[step][0], **sizes)
        assert list(islice(again, 17)) == whole[step + 1 : step + 18]


def test_the_place_behind_a_windows_last_row_is_the_next_window():
    index = make_index(TEN)
    rows = len(schedule_window(index, SPEC, seed=0, window=0))
    assert next(schedule_rows(index, SPEC, seed=0, row=rows))[:2] == (1, 0)


def test_numbers_are_the_same_for_ever():
    """A checkpoint holds only a place: another stream would silently change a run."""
    index = make_index(TEN)
    rows = schedule_window(index, SPEC, seed=0, window=1)
    assert rows[0] == (
        Visit(642, 8, 650, 17, 1, True),
        Visit(542, 5, 360, 17, 1, True),
    )
    far = schedule_window(index, SPEC, seed=0, window=2**24)
    first = 2**24 * 441 % 2**32  # uint32
    assert {visit.number for row in far for visit in row} == set(
        range(first, first + 441)
    )
    steps = schedule_steps(index, SPEC, seed=0, batch_rows=2)
    place, step = next(islice(steps, 20, None))
    assert place == (0, 32, 5)
    assert [[visit.number for visit in row] for row in step] == [
        [68, 73, 78, 84, 93],
        [425, 435, 175, 186, 198],
    ]

    cut = replace(SPEC, cut_share=0.5, row_length=4096)
    rows = schedule_window(make_index([40], frames=9), cut, seed=0, window=0)
    assert [d.latent_frames for d in rows[0]] == [9] * 10 + [6, 1, 2, 1, 2]


def test_captions_are_dropped_at_the_rate_and_cost_the_empty_text():
    index = make_index(np.full(50, 10))
    visits = [visit for row in plan(index, SPEC, 16) for visit in row]
    dropped = [visit for visit in visits if not visit.caption_kept]
    assert abs(len(dropped) / len(visits) - 0.1) < 0.01
    assert {visit.text_tokens for visit in dropped} == {1}
    assert {visit.text_tokens for visit in visits if visit.caption_kept} == {17}
    assert len({visit.sample for visit in dropped}) == 50  # by draw, not by sample
    for rate, kept in ((0.0, {True}), (1.0, {False})):
        spec = PackConfig(
            row_length=64, text_length=256, max_segments=9, caption_dropout=rate
        )
        rows = plan(index, spec, 2)
        assert {visit.caption_kept for row in rows for visit in row} == kept


def test_rows_of_a_window_are_not_sorted_by_size():
    largest = [max(d.tokens for d in row) for row in plan(make_index(TEN), SPEC, 1)]
    assert largest != sorted(largest, reverse=True)


def test_a_clip_longer_than_the_row_keeps_its_first_latents():
    index = make_index([100, 400], frames=21)
    spec = PackConfig(row_length=1000, text_length=256, max_segments=8)
    kept = {
        (d.sample, d.latent_frames, d.tokens) for r in plan(index, spec, 1) for d in r
    }
    assert kept == {(0, 10, 1000), (1, 2, 800)}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (make_index([]), "no sample"),
        (
            make_index([100, 2000, 1500]),
            r"sample 1 \(32000x16 pixels\) has 2000 tokens in a picture,"
            r".*row_length to at least 2000",
        ),
        (make_index([100, 2000], frames=3), "2000 tokens in one latent frame"),
        (make_index([100, 50], text=[3, 300]), "300 text tokens.*at least 300"),
        (make_index([100], text=0), "no text token"),
        (make_index([100], frames=2, fps=0.0), "no frame rate"),
        (
            ScheduleIndex(**{**vars(make_index([10])), "h": np.array([3])}),
            "do not divide",
        ),
    ],
)
def test_what_can_never_be_packed_is_refused_before_the_first_step(index, message):
    with pytest.raises(ValueError, match=message) as error:
        next(schedule_steps(index, SPEC, seed=0, batch_rows=1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_segments": 0},
        {"row_length": -1},
        {"cut_share": 1.1},
        {"next_share": -0.1},
        {"caption_dropout": 1.5},
    ],
)
def test_impossible_budgets_are_refused(bad):
    good = {"row_length": 8, "text_length": 8, "max_segments": 2}
    with pytest.raises(ValueError, match=next(iter(bad))):
        PackConfig(**{**good, **bad})


# --- Fill -------------------------------------------------------------------------

MIX = published_sizes(4096)
LONG = PackConfig(row_length=16384, text_length=2048, max_segments=32)


@pytest.mark.parametrize("row_length", [16384, 32768, 65536])
def test_long_rows_are_99_percent_full(row_length):
    spec = PackConfig(
        row_length=row_length, text_length=row_length // 8, max_segments=128
    )
    assert fill(plan(MIX, spec, 4), spec) >= 0.99


@pytest.mark.parametrize("row_length", [800, 1024, 1536, 2048, 3072])
@pytest.mark.parametrize("max_segments", [16, 32])
def test_ten_samples_fill_rows_to_95_percent(row_length, max_segments):
    spec = PackConfig(row_length=row_length, text_length=512, max_segments=max_segments)
    assert fill(plan(make_index(TEN), spec, 3), spec) >= 0.95


def rows_of_grains_first_fit(visits, spec, bins) -> int:
    """Returns how many rows Grain's packer fills with these visits, in stream order."""
    elements = [
        {"tokens": np.ones(d.tokens, np.int8), "text": np.ones(d.text_tokens, np.int8)}
        for d in sorted(visits)
    ]
    oracle = FirstFitPackIterDataset(
        grain.MapDataset.source(elements).to_iter_dataset(),
        length_struct={"tokens": spec.row_length, "text": spec.text_length},
        num_packing_bins=bins,
        max_sequences_per_bin=spec.max_segments,
        shuffle_bins=False,
    )
    packed = list(oracle)
    tokens = sum(np.count_nonzero(row["tokens"]) for row in packed)
    assert tokens == sum(visit.tokens for visit in visits)
    return len(packed)


@pytest.mark.parametrize(
    ("index", "spec"),
    [
        (make_index(TEN), SPEC),
        # Segments are scarce, the worst case of best-fit-decreasing by itself.
        (
            make_index(TEN),
            PackConfig(row_length=2048, text_length=256, max_segments=8),
        ),
        (MIX, LONG),
    ],
)
def test_windows_take_no_more_rows_than_grains_first_fit(index, spec):
    ours = theirs = 0
    for window in range(2):
        rows = schedule_window(index, spec, seed=0, window=window)
        visits = [visit for row in rows for visit in row]
        ours += len(rows)
        theirs += rows_of_grains_first_fit(visits, spec, len(rows))
    assert ours <= theirs


@pytest.mark.parametrize(
    ("index", "spec"),
    [(make_index(TEN), SPEC), *slow((MIX, LONG))],
)
def test_windows_take_no_more_rows_than_first_fit_on_the_whole_stream(index, spec):
    rows = plan(index, spec, 4)
    visits = [visit for row in rows for visit in row]
    assert len(rows) <= rows_of_grains_first_fit(visits, spec, len(rows) // 4)


# --- Dealing ----------------------------------------------------------------------


def steps_of(index, spec, steps, **sizes):
    return [
        rows for _, rows in islice(schedule_steps(index, spec, seed=0, **sizes), steps)
    ]


def rows_of(index, spec, number):
    return [row for _, _, row in islice(schedule_rows(index, spec, seed=0), number)]


@pytest.mark.parametrize("batch_rows", [1, 5, 24])
def test_steps_deal_every_row_of_the_plan_once(batch_rows):
    index = make_index(TEN)
    steps = steps_of(index, SPEC, 32, batch_rows=batch_rows)
    assert {len(step) for step in steps} == {batch_rows}
    rows = rows_of(index, SPEC, 32 * batch_rows)
    for group in (slice(0, 16), slice(16, 32)):
        dealt = [row for step in steps[group] for row in step]
        begin = batch_rows * group.start
        assert sorted(dealt) == sorted(rows[begin : begin + len(dealt)])


def test_the_mean_weight_of_rows_is_that_of_their_clips():
    """Condition tokens have no weight."""
    index = make_index([9, 100], frames=9)
    rows = schedule_window(index, SPEC, seed=0, window=0)
    expected = np.mean([sum(visit.tokens**0.5 for visit in row) for row in rows])
    found = mean_row_weight(index, SPEC, seed=0)
    assert found == pytest.approx(expected)
    prefixed = ConditioningMixture(none=0.0, prefix=1.0)
    given = mean_row_weight(index, replace(SPEC, mixture=prefixed), seed=0)
    assert 0.5 * found < given < 0.9 * found


def test_a_share_of_0_changes_no_bit_of_the_schedule(monkeypatch):
    """A task that this version does not know yet has no share in its trainings."""
    index = make_index([9, 100], frames=9)
    spec = replace(SPEC, mixture=ConditioningMixture(none=0.6, first=0.1, prefix=0.3))
    before = plan(index, spec, 1)
    for names in (SHARES[::-1], ("none", "first", "prefix")):
        monkeypatch.setattr("soraxla.packing.schedule.SHARES", names)
        monkeypatch.setattr("soraxla.packing.conditioning.SHARES", names)
        assert plan(index, spec, 1) == before


def test_a_step_lasts_on_64_devices_about_as_long_as_a_mean_device_needs():
    rows = rows_of(MIX, LONG, 1024)
    assert imbalance([rows[i : i + 64] for i in range(0, 1024, 64)], 64) > 2
    for batch_rows, bound in ((64, 1.15), (128, 1.15)):
        steps = steps_of(MIX, LONG, 32, batch_rows=batch_rows)
        # The plan does not know how many devices there are.
        assert imbalance(steps, 64) <= bound
        assert imbalance(steps, 16) <= bound


def test_steps_are_in_no_order_of_cost():
    steps = steps_of(MIX, LONG, 16, batch_rows=64)
    cost = [sum(map(row_cost, step)) for step in steps]
    assert cost not in (sorted(cost), sorted(cost, reverse=True))


def test_a_step_has_neighbours_in_cost_there_and_back_again():
    """Row i is the i-th costliest, of one segment or of two."""
    rows = [
        (Visit(i, i, 160 - 8 * i, 1, 1, True), Visit(i, i, 4 * (i % 2), 1, 1, True))
        for i in range(16)
    ]
    mixed = [rows[7 * i % 16] for i in range(16)]
    dealt = [[row[0].number for row in step] for step in balance(mixed, 4)]
    assert dealt == [[0, 3, 1, 2], [4, 7, 5, 6], [8, 11, 9, 10], [12, 15, 13, 14]]
    assert [row[0].number for row in balance(rows[:15], 5)[0]] == [0, 4, 1, 3, 2]
    assert balance(mixed, 1) == [[row] for row in rows]

"""The plan: every draw once, from anywhere, in full rows; pack and unpack."""

from collections import Counter
from itertools import islice

import grain
import numpy as np
import pytest
from grain.experimental import FirstFitPackIterDataset

from soraxla.packing import (
    PackSpec,
    PlanIndex,
    Segment,
    fill,
    pack,
    plan_rows,
    plan_window,
    unpack,
)

TEN = [100, 77, 70, 80, 96, 360, 392, 360, 650, 792]  # tokens of ten small samples


def make_index(tokens, *, text=17, frames=1, fps=24.0) -> PlanIndex:
    """Samples of `frames` latents of `tokens` patches each, in one line."""
    tokens = np.asarray(tokens, np.int32)
    same = np.ones_like(tokens)
    return PlanIndex(
        t=same * frames,
        h=same * 2,
        w=tokens * 2,
        fps=same * fps,
        text_length=np.broadcast_to(np.asarray(text, np.int32), tokens.shape),
        height=same * 16,
        width=tokens * 16,
        empty_text_length=1,
    )


def natural_mix(n=3000) -> PlanIndex:
    """Three pictures to seven clips, as `prepare` leaves them."""
    rng = np.random.default_rng(0)
    clips = np.minimum(16384, np.exp(rng.normal(8.6, 0.8, n))).astype(int)
    tokens = np.where(rng.random(n) < 0.3, rng.integers(256, 4097, n), clips)
    return make_index(tokens, text=rng.integers(5, 60, n))


def plan(index, spec, windows, seed=0):
    """The rows of the first windows."""
    return [
        row
        for w in range(windows)
        for row in plan_window(index, spec, seed=seed, window=w)
    ]


SPEC = PackSpec(row_length=1024, text_length=256, max_segments=16)


@pytest.mark.parametrize("samples", [1, 7, 256, 1000])
def test_every_draw_is_planned_once_and_every_epoch_holds_every_sample(samples):
    index = make_index(np.random.default_rng(1).integers(1, 1024, samples))
    draws = sorted(draw for row in plan(index, SPEC, 8) for draw in row)
    assert [draw.draw for draw in draws] == list(range(8 * 256))
    for epoch in range(8 * 256 // samples):
        visited = draws[epoch * samples : (epoch + 1) * samples]
        assert sorted(draw.sample for draw in visited) == list(range(samples))


def test_epochs_and_seeds_are_shuffled_differently():
    index = make_index(np.ones(128))
    one, two = [
        [d.sample for d in sorted(d for row in plan(index, SPEC, 1, s) for d in row)]
        for s in (0, 1)
    ]
    assert one[:128] != one[128:] and one != two and one[:128] != sorted(one[:128])


def test_draws_do_not_depend_on_the_window_they_are_planned_in():
    index = make_index(TEN)
    draws = [
        sorted(
            draw
            for row in plan(
                index,
                PackSpec(
                    row_length=1024, text_length=256, max_segments=16, window=window
                ),
                1024 // window,
            )
            for draw in row
        )
        for window in (64, 256)
    ]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        PackSpec(row_length=900, text_length=60, max_segments=9),  # text is scarce
        PackSpec(row_length=900, text_length=256, max_segments=3),  # segments are
    ],
)
def test_rows_keep_all_three_budgets(spec):
    for row in plan(make_index(TEN), spec, 4):
        assert sum(draw.tokens for draw in row) <= spec.row_length
        assert sum(draw.text_tokens for draw in row) <= spec.text_length
        assert 1 <= len(row) <= spec.max_segments


def test_a_plan_resumed_anywhere_continues_the_same():
    index = make_index(TEN)
    whole = list(islice(plan_rows(index, SPEC, seed=3), 400))
    for place in (0, 1, 77, 78, 250):
        window, row, _ = whole[place]
        again = plan_rows(index, SPEC, seed=3, window=window, row=row)
        assert list(islice(again, 50)) == whole[place : place + 50]


def test_the_place_behind_a_windows_last_row_is_the_next_window():
    index = make_index(TEN)
    rows = len(plan_window(index, SPEC, seed=0, window=0))
    assert next(plan_rows(index, SPEC, seed=0, row=rows))[:2] == (1, 0)


def test_numbers_are_the_same_for_ever():
    """A checkpoint holds only a place: another stream would silently change a run."""
    rows = plan_window(make_index(TEN), SPEC, seed=0, window=1)
    assert rows[0] == (
        (505, 6, 392, 17, 1, True),
        (381, 7, 360, 17, 1, True),
        (380, 1, 77, 17, 1, True),
        (392, 1, 77, 17, 1, True),
        (408, 1, 77, 1, 1, False),
    )
    far = plan_window(make_index(TEN), SPEC, seed=0, window=2**24)
    assert {draw.draw for row in far for draw in row} == set(range(256))  # uint32


def test_captions_are_dropped_at_the_rate_and_cost_the_empty_text():
    index = make_index(np.full(50, 10))
    draws = [draw for row in plan(index, SPEC, 40) for draw in row]
    dropped = [draw for draw in draws if not draw.caption_kept]
    assert abs(len(dropped) / len(draws) - 0.1) < 0.01
    assert {draw.text_tokens for draw in dropped} == {1}
    assert {draw.text_tokens for draw in draws if draw.caption_kept} == {17}
    assert len({draw.sample for draw in dropped}) == 50  # by draw, not by sample
    for rate, kept in ((0.0, {True}), (1.0, {False})):
        spec = PackSpec(
            row_length=64, text_length=256, max_segments=9, caption_dropout=rate
        )
        rows = plan(index, spec, 2)
        assert {draw.caption_kept for row in rows for draw in row} == kept


def test_rows_of_a_window_are_not_sorted_by_size():
    largest = [max(d.tokens for d in row) for row in plan(make_index(TEN), SPEC, 1)]
    assert largest != sorted(largest, reverse=True)


def test_a_clip_longer_than_the_row_keeps_its_first_latents():
    index = make_index([100, 400], frames=21)
    spec = PackSpec(row_length=1000, text_length=256, max_segments=8)
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
            PlanIndex(**{**vars(make_index([10])), "h": np.array([3])}),
            "do not divide",
        ),
    ],
)
def test_what_can_never_be_packed_is_refused_before_the_first_row(index, message):
    with pytest.raises(ValueError, match=message) as error:
        next(plan_rows(index, SPEC, seed=0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "bad",
    [{"max_segments": 0}, {"row_length": -1}, {"window": 0}, {"caption_dropout": 1.5}],
)
def test_impossible_budgets_are_refused(bad):
    good = {"row_length": 8, "text_length": 8, "max_segments": 2}
    with pytest.raises(ValueError, match=next(iter(bad))):
        PackSpec(**{**good, **bad})


# --- Fill -------------------------------------------------------------------------

MIX = natural_mix()
LONG = PackSpec(row_length=16384, text_length=2048, max_segments=32)


@pytest.mark.parametrize("row_length", [16384, 32768])
def test_long_rows_are_99_percent_full(row_length):
    spec = PackSpec(
        row_length=row_length, text_length=4096, max_segments=64, window=1024
    )
    assert fill(plan(MIX, spec, 3), spec) >= 0.99


def test_windows_of_256_draws_fill_rows_of_16k_to_99_percent():
    assert fill(plan(MIX, LONG, 60), LONG) >= 0.99


@pytest.mark.parametrize("row_length", [800, 1024, 1536, 2048, 3072])
@pytest.mark.parametrize("max_segments", [16, 32])
def test_ten_samples_fill_rows_to_95_percent(row_length, max_segments):
    spec = PackSpec(row_length=row_length, text_length=512, max_segments=max_segments)
    assert fill(plan(make_index(TEN), spec, 10), spec) >= 0.95


def rows_of_grains_first_fit(draws, spec, bins) -> int:
    """How many rows Grain's own packer fills with these draws, in stream order."""
    elements = [
        {"tokens": np.ones(d.tokens, np.int8), "text": np.ones(d.text_tokens, np.int8)}
        for d in sorted(draws)
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
    assert tokens == sum(draw.tokens for draw in draws)
    return len(packed)


@pytest.mark.parametrize(
    ("index", "spec"),
    [
        (make_index(TEN), SPEC),
        # Segments are scarce: where best-fit-decreasing alone is at its worst.
        (
            make_index(TEN),
            PackSpec(row_length=2048, text_length=256, max_segments=8),
        ),
        (MIX, LONG),
    ],
)
def test_a_window_takes_no_more_rows_than_grains_first_fit(index, spec):
    for window in range(3):
        rows = plan_window(index, spec, seed=0, window=window)
        draws = [draw for row in rows for draw in row]
        assert len(rows) <= rows_of_grains_first_fit(draws, spec, len(rows))


@pytest.mark.parametrize(("index", "spec"), [(make_index(TEN), SPEC), (MIX, LONG)])
def test_windows_take_no_more_rows_than_first_fit_on_the_whole_stream(index, spec):
    rows = plan(index, spec, 4)
    draws = [draw for row in rows for draw in row]
    assert len(rows) <= rows_of_grains_first_fit(draws, spec, len(rows) // 4)


# --- Rows -------------------------------------------------------------------------


def make_segment(n, m, *, seed=0, known=None) -> Segment:
    rng = np.random.default_rng(seed)
    return Segment(
        tokens=rng.normal(size=(n, 4)).astype(np.float32),
        positions=rng.normal(size=(n, 3)).astype(np.float32),
        text=rng.normal(size=(m, 6)).astype(np.float32),
        draw=seed + 2**31,
        shift=1.5 + seed,
        known=known,
    )


ROWS = [
    [
        make_segment(5, 2, seed=1),
        make_segment(3, 1, seed=2),
        make_segment(1, 3, seed=3),
    ],
    [make_segment(9, 6, seed=4, known=np.arange(9) < 2)],
]
ROW_SPEC = PackSpec(row_length=10, text_length=7, max_segments=4)


def test_unpack_undoes_pack():
    batch = pack(ROWS, ROW_SPEC)
    for name, ids in (
        ("latents", batch.segment_ids),
        ("positions", batch.segment_ids),
        ("text", batch.text_segment_ids),
    ):
        field = {"latents": "tokens"}.get(name, name)
        parts = unpack(getattr(batch, name), ids)
        assert [len(row) for row in parts] == [3, 1]
        for row, segments in zip(parts, ROWS, strict=True):
            for part, segment in zip(row, segments, strict=True):
                np.testing.assert_array_equal(part, getattr(segment, field))
    for row in unpack(batch.token_index, batch.segment_ids):
        for part in row:
            np.testing.assert_array_equal(part, np.arange(len(part)))


def test_segments_stand_in_order_and_padding_only_at_the_end():
    batch = pack(ROWS, ROW_SPEC)
    ids = [[1] * 5 + [2] * 3 + [3] + [0], [1] * 9 + [0]]
    np.testing.assert_array_equal(batch.segment_ids, ids)
    np.testing.assert_array_equal(
        batch.text_segment_ids, [[1, 1, 2, 3, 3, 3, 0], [1] * 6 + [0]]
    )
    for array in (batch.latents, batch.positions, batch.known):
        assert not array[:, -1].any()
    np.testing.assert_array_equal(
        batch.draw, [[1 + 2**31, 2 + 2**31, 3 + 2**31, 0], [4 + 2**31, 0, 0, 0]]
    )
    np.testing.assert_array_equal(batch.shift, [[2.5, 3.5, 4.5, 1], [5.5, 1, 1, 1]])
    np.testing.assert_array_equal(batch.known.sum(axis=1), [0, 2])
    dtypes = " ".join(array.dtype.name for array in batch)
    expected = "float32 int32 int32 float32 bool float32 int32 uint32 float32"
    assert dtypes == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "nothing"),
        ([[make_segment(6, 1), make_segment(5, 1)]], "11 tokens"),
        ([[make_segment(1, 4), make_segment(1, 4)]], "8 text tokens"),
        ([[make_segment(1, 1)] * 5], "5 segments"),
        ([[make_segment(1, 1)], [make_segment(1, 0)]], "row 1.*without text"),
    ],
)
def test_rows_over_budget_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        pack(rows, ROW_SPEC)


def test_a_row_without_segments_is_all_padding():
    batch = pack([ROWS[0], []], ROW_SPEC)
    assert not batch.segment_ids[1].any()
    assert [len(row) for row in unpack(batch.latents, batch.segment_ids)] == [3, 0]


def test_a_plan_has_each_sample_equally_often():
    draws = [draw for row in plan(make_index(TEN), SPEC, 10) for draw in row]
    assert set(Counter(draw.sample for draw in draws).values()) == {256}

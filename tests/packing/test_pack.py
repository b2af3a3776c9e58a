"""Rows of segments: pack and unpack."""

import dataclasses

import numpy as np
import pytest

from soraxla.packing.pack import PackConfig, Segment, pack, unpack


def make_segment(n, m, *, seed=0, condition_mask=None) -> Segment:
    rng = np.random.default_rng(seed)
    return Segment(
        tokens=rng.normal(size=(n, 4)).astype(np.float32),
        positions=rng.normal(size=(n, 3)).astype(np.float32),
        text=rng.normal(size=(m, 6)).astype(np.float32),
        visit=seed + 2**31,
        shift=1.5 + seed,
        condition_mask=condition_mask,
    )


ROWS = [
    [
        make_segment(5, 2, seed=1),
        make_segment(3, 1, seed=2),
        make_segment(1, 3, seed=3),
    ],
    [make_segment(9, 6, seed=4, condition_mask=np.arange(9) < 2)],
]
ROW_SPEC = PackConfig(row_length=10, text_length=7, max_segments=4)


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
    for array in (batch.latents, batch.positions, batch.condition_mask):
        assert not array[:, -1].any()
    np.testing.assert_array_equal(
        batch.visit, [[1 + 2**31, 2 + 2**31, 3 + 2**31, 0], [4 + 2**31, 0, 0, 0]]
    )
    np.testing.assert_array_equal(batch.shift, [[2.5, 3.5, 4.5, 1], [5.5, 1, 1, 1]])
    np.testing.assert_array_equal(batch.condition_mask.sum(axis=1), [0, 2])
    dtypes = " ".join(array.dtype.name for array in batch)
    expected = "float32 int32 int32 float32 bool float32 float32 float32"
    assert dtypes == f"{expected} int32 uint32 float32"
    assert batch.controls.shape == batch.features.shape == (2, 10, 0)


def test_controls_stand_at_their_tokens():
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    steered = dataclasses.replace(make_segment(5, 1), controls=rows)
    batch = pack([[make_segment(3, 1), steered]], ROW_SPEC)
    np.testing.assert_array_equal(batch.controls[0, 3:8], rows)
    assert not batch.controls[0, :3].any() and not batch.controls[0, 8:].any()


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

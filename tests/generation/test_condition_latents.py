"""Conditions of a clip have their places, in a whole clip and in windows."""

import numpy as np
import pytest

from soraxla.core.types import LatentGrid
from soraxla.generation.condition_latents import (
    AppendedLatents,
    Clip,
    lay_out,
    starting_with,
    window_ends,
    window_of,
)
from soraxla.packing.patchify import positions, unpatchify

GRID, PATCH = LatentGrid(t=3, h=4, w=6), (1, 2, 2)
FPS, ROPE_FPS = 12.0, 16.0


def latents(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_known_latents_stand_at_the_beginning(k):
    first = latents(k, 4, 6, 5)
    tokens = lay_out(starting_with(first, 3, FPS), PATCH, ROPE_FPS)
    assert tokens.latents.shape == (18, 20) and tokens.latents.dtype == np.float32
    np.testing.assert_array_equal(tokens.condition_mask, np.arange(18) < 6 * k)
    clip = np.asarray(unpatchify(tokens.latents, GRID, PATCH))
    np.testing.assert_array_equal(clip[:k], first)
    assert np.all(clip[k:] == 0) and not tokens.appended.any()
    own = positions(GRID, PATCH, FPS, ROPE_FPS)
    np.testing.assert_array_equal(tokens.positions, own)


def test_what_was_encoded_alone_stands_behind_the_clip_at_its_own_time():
    """The conditions are frame 7 and a tail of two latents from frame 4 on."""
    frame, tail = latents(1, 4, 6, 5), latents(2, 4, 6, 5, seed=1)
    alone = (
        AppendedLatents(latents=frame, place=7 / 4),
        AppendedLatents(latents=tail, place=1.0),
    )
    clip = starting_with(latents(1, 4, 6, 5, seed=2), 3, FPS, alone)
    tokens = lay_out(clip, PATCH, ROPE_FPS)
    assert tokens.latents.shape == (18 + 6 + 12, 20)
    np.testing.assert_array_equal(tokens.appended, np.arange(36) >= 18)
    np.testing.assert_array_equal(
        tokens.condition_mask, (np.arange(36) < 6) | (np.arange(36) >= 18)
    )
    behind = np.asarray(
        unpatchify(tokens.latents[18:], LatentGrid(t=3, h=4, w=6), PATCH)
    )
    np.testing.assert_array_equal(behind, np.concatenate([frame, tail]))
    t, space = tokens.positions[18:, 0], tokens.positions[18:, 1:]
    scale = ROPE_FPS / FPS
    expected = np.repeat([7 / 4 * scale, scale, 2 * scale], 6)
    np.testing.assert_allclose(t, expected, rtol=1e-6)
    np.testing.assert_array_equal(space, np.tile(tokens.positions[:6, 1:], (3, 1)))


def test_where_sampling_starts_is_kept_only_below_full_strength():
    z, condition_mask = latents(3, 4, 6, 5), np.zeros((3, 4, 6), bool)
    condition_mask[:, :2] = True
    for strength, kept in ((0.4, np.ones_like(condition_mask)), (1.0, condition_mask)):
        clip = Clip(
            latents=z, condition_mask=condition_mask, fps=FPS, strength=strength
        )
        tokens = lay_out(clip, PATCH, ROPE_FPS)
        out = np.asarray(unpatchify(tokens.latents, GRID, PATCH))
        np.testing.assert_array_equal(out, np.where(kept[..., None], z, 0))
        assert tokens.condition_mask.sum() == 9


def test_what_cannot_be_known_is_refused():
    with pytest.raises(ValueError, match="4 condition frames do not fit a clip of 3"):
        starting_with(latents(4, 4, 6, 5), 3, FPS)
    condition_mask = np.zeros((3, 4, 6), bool)
    condition_mask[0, 0, 0] = True
    clip = Clip(latents=latents(3, 4, 6, 5), condition_mask=condition_mask, fps=FPS)
    with pytest.raises(ValueError, match="a condition in part: give whole"):
        lay_out(clip, PATCH, ROPE_FPS)


# --- Windows ----------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [2, 3])
@pytest.mark.parametrize("window", [4, 5, 9])
@pytest.mark.parametrize("frames", [1, 4, 5, 6, 10, 37, 100])
def test_windows_cover_a_clip_with_their_overlap(frames, window, overlap):
    ends = window_ends(frames, window, overlap)
    starts = [0, *(end - overlap for end in ends[:-1])]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    assert ends[-1] == frames and max(lengths) <= window
    assert max(lengths) - min(lengths) <= 1 or len(ends) == 1
    assert all(length > overlap for length in lengths[1:])
    fewest = 1 if frames <= window else -(-(frames - overlap) // (window - overlap))
    assert len(ends) == fewest


def test_a_clip_without_a_limit_is_one_window():
    assert window_ends(1000, None, 3) == [1000]
    with pytest.raises(ValueError, match="windows of 3 latent frames cannot overlap"):
        window_ends(10, 3, 3)


def test_a_window_begins_with_what_was_made_and_counts_from_its_own_start():
    frame, tail = latents(1, 4, 6, 5), latents(3, 4, 6, 5, seed=1)
    alone = (
        AppendedLatents(latents=frame, place=2.25),
        AppendedLatents(latents=tail, place=7.0),
    )
    clip = starting_with(latents(1, 4, 6, 5, seed=2), 10, FPS, alone)
    made = latents(2, 4, 6, 5, seed=3)
    first = window_of(clip, 0, 6, made[:0])
    np.testing.assert_array_equal(first.latents, clip.latents[:6])
    assert first.condition_mask[0].all() and not first.condition_mask[1:].any()
    assert [given.place for given in first.appended] == [2.25]
    last = window_of(clip, 4, 10, made)
    np.testing.assert_array_equal(last.latents[:2], made)
    assert last.condition_mask[:2].all() and not last.condition_mask[2:].any()
    assert [given.place for given in last.appended] == [3.0]
    np.testing.assert_array_equal(last.appended[0].latents, tail)
    assert clip.condition_mask[1:].sum() == 0  # the clip itself is unchanged
    own = positions(LatentGrid(t=6, h=4, w=6), PATCH, FPS, ROPE_FPS)
    laid = lay_out(last, PATCH, ROPE_FPS)
    np.testing.assert_array_equal(laid.positions[: len(own)], own)

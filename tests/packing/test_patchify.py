"""Patches: a bijection, in a fixed feature order, with positions in seconds."""

import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.types import LatentGrid
from soraxla.packing.patchify import patchify, positions, unpatchify

CASES = [  # grid, patch
    ((1, 2, 2), (1, 2, 2)),
    ((3, 4, 6), (1, 2, 2)),
    ((3, 4, 6), (1, 1, 1)),
    ((6, 4, 3), (2, 4, 3)),
]


@pytest.mark.parametrize(("grid", "patch"), CASES)
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("np_like", [np, jnp])
def test_unpatchify_undoes_patchify(grid, patch, batch, np_like):
    latents = np_like.asarray(
        np.random.default_rng(0).normal(size=(*batch, *grid, 5)).astype(np.float32)
    )
    tokens = patchify(latents, patch)
    t, h, w = grid
    pt, ph, pw = patch
    count = (t // pt) * (h // ph) * (w // pw)
    assert tokens.shape == (*batch, count, 5 * pt * ph * pw)
    back = unpatchify(tokens, LatentGrid(t=t, h=h, w=w), patch)
    np.testing.assert_array_equal(back, latents)


def test_features_run_pt_ph_pw_c_with_c_fastest():
    # A latent's value is its own (t, h, w, c), so that order can be read off.
    latents = np.stack(np.indices((2, 4, 4, 3)), axis=-1) @ [1000, 100, 10, 1]
    tokens = patchify(latents.astype(np.float32), (2, 2, 2))
    expected = [
        1000 * t + 100 * (2 + h) + 10 * w + c
        for t in range(2)
        for h in range(2)
        for w in range(2)
        for c in range(3)
    ]
    np.testing.assert_array_equal(tokens[2], expected)  # second row, first column


def test_positions_name_the_patch_the_token_was_cut_from():
    grid, patch = LatentGrid(t=3, h=4, w=6), (1, 2, 2)
    place = np.indices((3, 2, 3), dtype=np.float32)  # patch indices
    latents = np.repeat(np.repeat(place, 2, axis=2), 2, axis=3)
    tokens = patchify(np.moveaxis(latents, 0, -1), patch)
    np.testing.assert_array_equal(positions(grid, patch, 16.0), tokens[:, :3])


@pytest.mark.parametrize("fps", [8.0, 16.0, 24.0, 60.0])
def test_time_is_counted_in_seconds_not_frames(fps):
    time = positions(LatentGrid(t=4, h=2, w=2), (1, 2, 2), fps, rope_fps=16.0)[:, 0]
    np.testing.assert_allclose(time, np.arange(4) * 16.0 / fps, rtol=1e-6)


@pytest.mark.parametrize("fps", [0.0, 24.0])
def test_a_single_frame_stands_at_time_zero(fps):
    place = positions(LatentGrid(t=1, h=4, w=4), (1, 2, 2), fps)
    np.testing.assert_array_equal(place[:, 0], np.zeros(4))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 5, 4\)"):
        patchify(np.zeros((3, 5, 4, 1), np.float32), (1, 2, 2))
    with pytest.raises(ValueError, match="7 tokens of 4 features"):
        unpatchify(np.zeros((7, 4), np.float32), LatentGrid(t=2, h=4, w=4), (1, 2, 2))
    with pytest.raises(ValueError, match="fps=0"):
        positions(LatentGrid(t=2, h=2, w=2), (1, 2, 2), 0.0)

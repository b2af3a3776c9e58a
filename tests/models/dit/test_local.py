"""Convolutions on packed rows: what a lone clip's convolution gives, and no leaks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.models.dit.config import dit_config
from soraxla.models.dit.local import (
    Forecast,
    fetch_neighbours,
    neighbours,
    surroundings,
)
from tests.tiny import quick

GRIDS = [(2, 3, 4), (1, 2, 2), (3, 1, 5)]  # (t, h, w) of the clips of a row
PADDING = 3


def row(grids=GRIDS, padding=PADDING):
    """Positions (1,L,3), the later frames at odd times, and segment ids."""
    positions, ids = [], []
    for k, grid in enumerate(grids):
        place = np.indices(grid).reshape(3, -1).T * np.array([0.75, 1.0, 1.0])
        positions.append(place)
        ids.append(np.full(len(place), k + 1))
    positions.append(np.zeros((padding, 3)))
    ids.append(np.zeros(padding, int))
    return (
        np.concatenate(positions)[None].astype(np.float32),
        np.concatenate(ids)[None].astype(np.int32),
    )


@functools.cache
def near_ones():
    """The neighbours of the row's tokens."""
    return np.asarray(quick(neighbours, static_argnums=2)(*row(), len(GRIDS)))


def test_neighbours_are_those_of_the_clips_own_grid():
    near = near_ones()[0]
    start = 0
    steps = [(0, h, w) for h in (-1, 0, 1) for w in (-1, 0, 1) if h or w]
    steps = [*steps[:4], (-1, 0, 0), (1, 0, 0), *steps[4:]]
    for grid in GRIDS:
        number = np.arange(np.prod(grid)).reshape(grid)
        for place in np.ndindex(*grid):
            for k, step in enumerate(steps):
                there = np.add(place, step)
                inside = np.all((there >= 0) & (there < grid))
                expected = start + number[tuple(there)] if inside else -1
                assert near[start + number[place], k] == expected, (grid, place, step)
        start += number.size
    assert np.all(near[start:] == -1)


def test_the_way_back_is_the_gradient():
    """Against the gradient of a plain lookup, a scatter."""
    _, ids = row()
    near = near_ones()
    rng = np.random.default_rng(0)
    x, weight = (
        rng.normal(size=(1, ids.shape[1], 2)).astype(np.float32) for _ in range(2)
    )

    @jax.jit
    @jax.grad
    def ours(x, there, back):
        return jnp.sum(weight * fetch_neighbours(x, there, back))

    @jax.jit
    @jax.grad
    def plain(x, there):
        found = jnp.take_along_axis(x, jnp.maximum(there, 0)[:, :, None], axis=1)
        return jnp.sum(weight * jnp.where((there >= 0)[:, :, None], found, 0.0))

    for k in range(near.shape[-1]):
        there, back = near[:, :, k], near[:, :, -1 - k]
        np.testing.assert_array_equal(ours(x, there, back), plain(x, there))


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (1, 3)])
def test_a_sum_over_the_surroundings_is_a_convolution(patch):
    """Each clip has zeros around it: 3×3 in its frame, 1 before, 1 after."""
    _, ids = row()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, ids.shape[1], *patch, 3)).astype(np.float32)
    kernel = rng.normal(size=(11, 3, 2)).astype(np.float32)
    near = near_ones()
    around = quick(surroundings)(x, near)
    found = sum(np.asarray(a) @ k for a, k in zip(around, kernel, strict=True))[0]
    start, (ph, pw) = 0, patch
    for t, h, w in GRIDS:
        own = slice(start, start + t * h * w)
        clip = x[0, own].reshape(t, h, w, ph, pw, 3)
        clip = clip.transpose(0, 1, 3, 2, 4, 5).reshape(t, h * ph, w * pw, 3)
        padded = np.pad(clip, ((1, 1), (1, 1), (1, 1), (0, 0)))
        made = np.zeros((*clip.shape[:3], 2), np.float32)
        for i in range(3):
            for j in range(3):
                window = padded[1:-1, i : i + h * ph, j : j + w * pw]
                made += window @ kernel[3 * i + j]
        made += padded[:-2, 1:-1, 1:-1] @ kernel[9]
        made += padded[2:, 1:-1, 1:-1] @ kernel[10]
        made = made.reshape(t, h, ph, w, pw, 2).transpose(0, 1, 3, 2, 4, 5)
        np.testing.assert_allclose(
            found[own], made.reshape(-1, ph, pw, 2), rtol=0, atol=2e-5
        )
        start += t * h * w


@functools.cache
def forecasting(seed=0):
    """A forecast of random weights of rows of clips, (x, level) to tokens."""
    cfg = dit_config(
        "debug", latent_channels=3, local_width=8, forecast_layers=2, dtype="float32"
    )
    _, ids = row()
    near = near_ones()
    x = np.random.default_rng(seed).normal(size=(1, ids.shape[1], cfg.patch_dim))
    x, level = x.astype(np.float32), np.ones(ids.shape, np.float32)
    model = Forecast(cfg)
    start = quick(model.init)(jax.random.key(0, impl="rbg"), x, level, near)
    rng = np.random.default_rng(1)
    random = jax.tree.map(lambda p: np.float32(0.3 * rng.normal(size=p.shape)), start)

    apply = quick(model.apply)

    def forecast(x, level=level, params=random):
        return np.asarray(apply(params, x, level, near))

    return forecast, x, start


@pytest.mark.slow
def test_a_forecast_is_told_by_the_two_frames_before_and_by_nothing_else():
    forecast, x, _ = forecasting()
    base, frame = forecast(x), 2 * 2  # of the clip of one frame, behind one of two
    frames = [slice(0, 12), slice(12, 24), slice(24, 24 + frame)]
    frames += [slice(28 + 5 * i, 33 + 5 * i) for i in range(3)]
    told_by = {0: [1], 1: [], 2: [], 3: [4, 5], 4: [5], 5: []}
    for changed, then in told_by.items():
        other = x.copy()
        other[0, frames[changed]] += 1.0
        moved = np.any(forecast(other) != base, axis=-1)[0]
        for i, place in enumerate(frames):
            assert np.all(moved[place]) if i in then else not np.any(moved[place])


@pytest.mark.slow
def test_a_forecast_is_told_how_clean_those_frames_are():
    forecast, x, _ = forecasting()
    level = np.ones(x.shape[:2], np.float32)
    level[:, :12] = 0.5  # of the first clip's first frame
    moved = np.any(forecast(x, level) != forecast(x), axis=-1)[0]
    np.testing.assert_array_equal(np.flatnonzero(moved), np.arange(12, 24))


@pytest.mark.slow
def test_a_fresh_forecast_is_the_frame_before():
    forecast, x, start = forecasting()
    found = forecast(x, params=start)
    np.testing.assert_array_equal(found[0, 12:24], x[0, :12])
    assert not np.any(found[0, :12])

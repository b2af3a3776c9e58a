"""Convolutions on packed rows: what a lone clip's convolution gives, and no leaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.models.local import _fetch, neighbours, surroundings

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


def test_neighbours_are_those_of_the_clips_own_grid():
    positions, ids = row()
    near = np.asarray(neighbours(positions, ids, len(GRIDS)))[0]
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
    positions, ids = row()
    near = neighbours(positions, ids, len(GRIDS))
    rng = np.random.default_rng(0)
    x, weight = (
        rng.normal(size=(1, ids.shape[1], 2)).astype(np.float32) for _ in range(2)
    )
    for k in range(near.shape[-1]):
        there, back = near[:, :, k], near[:, :, -1 - k]

        def plain(x, there=there):
            found = jnp.take_along_axis(x, jnp.maximum(there, 0)[:, :, None], axis=1)
            return jnp.sum(weight * jnp.where((there >= 0)[:, :, None], found, 0.0))

        ours = jax.grad(lambda x, a, b: jnp.sum(weight * _fetch(x, a, b)))
        np.testing.assert_array_equal(ours(x, there, back), jax.grad(plain)(x))


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (1, 3)])
def test_a_sum_over_the_surroundings_is_a_convolution(patch):
    """Of each clip alone, with zeros around it: 3×3 in its frame, 1 before, 1 after."""
    positions, ids = row()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, ids.shape[1], *patch, 3)).astype(np.float32)
    kernel = rng.normal(size=(11, 3, 2)).astype(np.float32)
    near = neighbours(positions, ids, len(GRIDS))
    around = surroundings(x, near)
    found = np.asarray(sum(part @ k for part, k in zip(around, kernel, strict=True)))[0]
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

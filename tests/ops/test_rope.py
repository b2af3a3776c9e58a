"""Rotary tables: relative, norm-keeping, and equal to the formula in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.rope import rotary_axis_dims, rotary_tables, rotate


def _rotated(x_BLNK, positions_BL3):
    return np.asarray(rotate(x_BLNK, *rotary_tables(positions_BL3, x_BLNK.shape[-1])))


def _random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_axes_share_a_head_as_wan_does():
    assert rotary_axis_dims(128) == (44, 42, 42)
    assert rotary_axis_dims(64) == (24, 20, 20)
    assert rotary_axis_dims(32) == (12, 10, 10)


@pytest.mark.parametrize("head_dim", [4, 33])
def test_a_head_that_cannot_be_split_is_refused(head_dim):
    with pytest.raises(ValueError, match="change width or heads"):
        rotary_axis_dims(head_dim)


def test_rotation_is_the_formula_in_float64():
    k, positions = 32, np.array([[[2.5, 7.0, 31.0], [100.25, 0.0, 3.0]]], np.float32)
    x = _random((1, 2, 3, k))
    angle = np.concatenate(
        [
            positions[..., axis, None].astype(np.float64)
            * 10000.0 ** (-np.arange(0, dim, 2) / dim)
            for axis, dim in enumerate(rotary_axis_dims(k))
        ],
        axis=-1,
    )[:, :, None, :]
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    expected = np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
    np.testing.assert_allclose(_rotated(x, positions), expected, rtol=0, atol=2e-5)


def test_a_score_depends_on_the_distance_only():
    """One shift of all positions, on any axis, changes no dot product."""
    q, k = _random((1, 6, 2, 24), 1), _random((1, 6, 2, 24), 2)
    positions = _random((1, 6, 3), 3) * 5
    offset = np.array([3.75, 11.0, 2.0], np.float32)[None, None, :]

    def scores(where):
        return jnp.einsum("blnk,bmnk->bnlm", _rotated(q, where), _rotated(k, where))

    np.testing.assert_allclose(
        scores(positions), scores(positions + offset), rtol=0, atol=2e-5
    )
    assert np.abs(scores(positions) - scores(positions * 2)).max() > 0.1


def test_rotation_keeps_every_pair_s_length_and_the_origin():
    x = _random((2, 5, 2, 12))
    turned = _rotated(x, _random((2, 5, 3), 1) * 100)
    pairs = (2, 5, 2, 6, 2)
    np.testing.assert_allclose(
        np.linalg.norm(turned.reshape(pairs), axis=-1),
        np.linalg.norm(x.reshape(pairs), axis=-1),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(_rotated(x, np.zeros((2, 5, 3), np.float32)), x)


def test_each_axis_turns_its_own_features():
    t, h, w = rotary_axis_dims(24)
    x = np.ones((1, 1, 1, 24), np.float32)
    for axis, (start, stop) in enumerate([(0, t), (t, t + h), (t + h, t + h + w)]):
        position = np.zeros((1, 1, 3), np.float32)
        position[..., axis] = 1.5
        moved = np.abs(_rotated(x, position) - x)[0, 0, 0] > 0
        assert moved[start:stop].all() and moved.sum() == stop - start

"""Layers of the transformer by themselves."""

import jax
import jax.numpy as jnp
import numpy as np

from soraxla.models.dit.layers import gather_rows


def test_gathered_rows_have_the_gradient_of_a_gather():
    """It is written by hand; rows taken often, once and never."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(2, 4, 3)).astype(np.float32)
    row = np.array([[0, 0, 2, 3, 0], [1, 1, 1, 1, 2]], np.int32)
    weight = rng.normal(size=(2, 5, 3)).astype(np.float32)
    plain = jax.grad(
        lambda t: jnp.sum(weight * jnp.take_along_axis(t, row[:, :, None], axis=1))
    )(table)
    ours = jax.grad(lambda t: jnp.sum(weight * gather_rows(t, row)))(table)
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-6)
    assert np.all(ours[0, 1] == 0.0)

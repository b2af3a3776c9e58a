"""A linear layer's product has the gradients of any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.linear import affine
from soraxla.parallel.mesh import one_device

ROWS, IN, OUT = (2, 7), 5, 3


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_gradients_are_those_of_a_product(dtype, biased):
    rng = np.random.default_rng(0)
    shapes = [(*ROWS, IN), (IN, OUT), (OUT,)][: 2 + biased]
    inputs = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    weight = jnp.asarray(rng.normal(size=(*ROWS, OUT)), dtype)

    def loss(*inputs):
        return jnp.sum(affine(*inputs).astype(jnp.float32) * weight)

    with jax.set_mesh(one_device()):  # as `soraxla train` has it
        found = jax.jit(jax.grad(loss, range(len(inputs))))(*inputs)
    x, kernel, weight = (np.asarray(y, np.float64) for y in (*inputs[:2], weight))
    rows = weight.reshape(-1, OUT)
    expected = [weight @ kernel.T, x.reshape(-1, IN).T @ rows, rows.sum(0)]
    for a, b in zip(found, expected[: len(inputs)], strict=True):
        assert a.dtype == dtype
        limit = 1e-6 if dtype == "float32" else 2**-8  # bf16 rounds by up to 2⁻⁹
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(b)

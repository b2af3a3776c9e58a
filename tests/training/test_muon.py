"""Muon's directions and state, against optax's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers, muon

from soraxla.training.muon import in_vae, orthogonalized
from soraxla.training.optim import OptimConfig, optimizer, schedule

SETTINGS = OptimConfig(
    muon_learning_rate=0.1, warmup_steps=1, weight_decay=0.1, clip_norm=1e9
)


def axes(path, x):
    first = 0 if in_vae(path) else x.ndim - 2
    return MuonDimensionNumbers(tuple(range(first, x.ndim - 1)), x.ndim - 1)


def of_optax():
    """Returns the transformation that wrote the checkpoints of version 0.1."""
    return muon(
        schedule(SETTINGS, 0.1),
        ns_steps=4,
        preconditioning="aol",
        consistent_rms=0.2,
        weight_decay=0.1,
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(
            axes, params
        ),
    )


@pytest.mark.slow
def test_directions_and_state_are_those_of_optax():
    """Kernels of stacked blocks and of a VAE; two have one shape, one is tall."""
    rng = np.random.default_rng(0)

    def kernels(**shapes):
        return {
            name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)}
            for name, shape in shapes.items()
        }

    blocks, vae = {"a": (2, 12, 8), "b": (2, 8, 12)}, {"s_res_0": (2, 2, 2, 8)}
    params, grads = (
        {"blocks": kernels(**blocks), "encoder": kernels(**vae)} for _ in range(2)
    )
    pair = of_optax(), optimizer(SETTINGS)
    states: Any = tuple(x.init(params) for x in pair)
    inner = states[1][1].inner_states["hidden"].inner_state
    assert jax.tree.structure(inner) == jax.tree.structure(states[0])

    @jax.jit
    def step(states, grads):
        both = (x.update(grads, s, params) for x, s in zip(pair, states, strict=True))
        return tuple(zip(*both, strict=True))

    for grad in (params, grads):  # the second one shows the momentum
        (expected, found), states = step(states, grad)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_singular_values_are_near_one_in_either_dtype(dtype):
    rng = np.random.default_rng(0)
    stack = rng.normal(size=(1, 2, 16, 24)) * np.logspace(-2, 0, 24)
    found = orthogonalized(jnp.asarray(stack, jnp.float32), dtype)
    values = np.linalg.svd(found, compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.25
    assert found.dtype == jnp.float32

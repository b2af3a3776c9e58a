"""What every engine of packed attention owes to its caller, against the reference."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.engines import reference, tpu_splash, xla_flash
from soraxla.ops.engines.engine import LOWEST, Engine

ENGINES = {
    "reference": reference.ENGINE,
    "xla_flash": xla_flash.ENGINE,
    "tpu_splash": Engine(
        *(partial(method, interpret=True) for method in tpu_splash.ENGINE)
    ),
}

# Two segments, one without keys (2), keys without a query (3), and padding.
Q_IDS = np.array([[1] * 5 + [2] + [4] * 6, [1] * 4 + [4] * 3 + [0] * 5], np.int32)
KV_IDS = np.array([[1, 1, 3, 4, 4, 4, 4, 4, 0], [1] * 3 + [4] * 2 + [0] * 4], np.int32)


@pytest.fixture
def inputs():
    """q, k, v, the ids and a bias; the gradient of the output."""
    rng = np.random.default_rng(0)
    q, grad = rng.normal(size=(2, 2, 12, 3, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 9, 3, 8)).astype(np.float32)
    bias = rng.normal(size=KV_IDS.shape).astype(np.float32)
    return (q, k, v, Q_IDS, KV_IDS, bias), grad


def _close(ours, exact):
    for x, y in zip(ours, exact, strict=True):
        scale = float(np.max(np.abs(y)))
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * scale)


def _delta(out, grad):
    return jnp.sum(out * grad, axis=-1)


def test_the_reference_s_gradients_are_those_of_its_values(inputs):
    (q, k, v, *ids, bias), grad = inputs

    def values(q, k, v, bias):
        return reference.forward(q, k, v, *ids, bias)

    (out, lse), back = jax.vjp(values, q, k, v, bias)
    ours = reference.backward(q, k, v, *ids, bias, lse, _delta(out, grad), grad)
    _close(ours, back((grad, jnp.zeros_like(lse))))


@pytest.mark.parametrize("name", ENGINES)
def test_a_query_s_logsumexp_is_finite_even_without_keys(name, inputs):
    args, _ = inputs
    _, lse = ENGINES[name].forward(*args)
    _, exact = reference.forward(*args)
    seen = np.any(Q_IDS[:, :, None] == KV_IDS[:, None, :], axis=-1) & (Q_IDS > 0)
    assert lse.dtype == jnp.float32 and not seen.all()
    assert np.all(np.asarray(lse)[~seen] == np.float32(LOWEST))
    np.testing.assert_allclose(lse[seen], exact[seen], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_keys_may_be_spread_over_calls(name, inputs):
    """As a ring of devices does: outputs are merged by their logsumexp, and every
    share's gradients follow from the merged logsumexp and delta."""
    (q, k, v, q_ids, kv_ids, bias), grad = inputs
    shares = [
        (q, k[:, part], v[:, part], q_ids, kv_ids[:, part], bias[:, part])
        for part in (slice(0, 4), slice(4, 9))
    ]
    outs, lses = zip(*(ENGINES[name].forward(*x) for x in shares), strict=True)
    lse = jnp.logaddexp(*lses)
    out = sum(
        x * jnp.exp(part - lse)[..., None] for x, part in zip(outs, lses, strict=True)
    )
    delta = _delta(out, grad)
    parts = [ENGINES[name].backward(*x, lse, delta, grad) for x in shares]
    grad_q = sum(part[0] for part in parts)
    rest = [jnp.concatenate(x, axis=1) for x in list(zip(*parts, strict=True))[1:]]

    exact, exact_lse = reference.forward(*inputs[0])
    exact_grads = reference.backward(*inputs[0], exact_lse, _delta(exact, grad), grad)
    _close([out, grad_q, *rest], [exact, *exact_grads])

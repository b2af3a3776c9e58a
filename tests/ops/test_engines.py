"""Every engine of packed attention against float64 NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops import attention
from soraxla.ops.engines import gpu_dense, reference, tpu_splash, xla_flash
from soraxla.ops.engines.engine import LOWEST, Engine
from tests.marks import slow
from tests.ops import exact

ENGINES = {
    "reference": reference.ENGINE,
    "xla_flash": xla_flash.ENGINE,
    "gpu_dense": gpu_dense.ENGINE,
    "tpu_splash": Engine(
        *(partial(method, interpret=True) for method in tpu_splash.ENGINE)
    ),
}

INTERPRETED_SLOWLY = ["reference", "xla_flash", "gpu_dense", *slow("tpu_splash")]

# Two segments, one without keys (2), keys without a query (3), and padding.
Q_IDS = np.array([[1] * 5 + [2] + [4] * 6, [1] * 4 + [4] * 3 + [0] * 5], np.int32)
KV_IDS = np.array(
    [[1, 1, 3] + [4] * 5 + [0] * 2, [1] * 3 + [4] * 2 + [0] * 5], np.int32
)


@pytest.fixture
def inputs():
    """q, k, v, the ids and a bias; the gradient of the output."""
    rng = np.random.default_rng(0)
    q, grad = rng.normal(size=(2, 2, 12, 3, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 10, 3, 8)).astype(np.float32)
    bias = rng.normal(size=KV_IDS.shape).astype(np.float32)
    return (q, k, v, Q_IDS, KV_IDS, bias), grad


# One jit for all tests, so that they share what is compiled of equal shapes.
FORWARD, BACKWARD = (
    jax.jit(lambda name, *x, i=i: ENGINES[name][i](*x), static_argnums=0)
    for i in range(2)
)


def _close(ours, expected):
    for x, y in zip(ours, expected, strict=True):
        scale = float(np.max(np.abs(y)))
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * scale)


def _shares(q, k, v, q_ids, kv_ids, bias):
    """The keys in two calls of five each."""
    return [
        (q, k[:, part], v[:, part], q_ids, kv_ids[:, part], bias[:, part])
        for part in (slice(0, 5), slice(5, 10))
    ]


@pytest.mark.parametrize("name", INTERPRETED_SLOWLY)
def test_a_query_s_logsumexp_is_finite_even_without_keys(name, inputs):
    args, _ = inputs
    some, _ = _shares(*args)
    _, lse = FORWARD(name, *some)
    _, expected = exact.attend(*some)
    seen = np.any(Q_IDS[:, :, None] == some[4][:, None, :], axis=-1) & (Q_IDS > 0)
    assert lse.dtype == jnp.float32 and not seen.all()
    assert np.all(np.asarray(lse)[~seen] == np.float32(LOWEST))
    np.testing.assert_allclose(lse[seen], expected[seen], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", INTERPRETED_SLOWLY)
def test_keys_may_be_spread_over_calls(name, inputs):
    """As a ring of devices does: outputs are merged by their logsumexp, and every
    share's gradients follow from the merged logsumexp and delta."""
    args, grad = inputs
    shares = _shares(*args)
    outs, lses = zip(*(FORWARD(name, *x) for x in shares), strict=True)
    lse = np.logaddexp(*lses)
    out = sum(
        x * np.exp(part - lse)[..., None] for x, part in zip(outs, lses, strict=True)
    )
    delta = np.sum(out * grad, axis=-1)
    parts = [BACKWARD(name, *x, lse, delta, grad) for x in shares]
    grad_q = sum(part[0] for part in parts)
    rest = [np.concatenate(x, axis=1) for x in list(zip(*parts, strict=True))[1:]]
    expected, _, *grads = exact.attend(*args, grad)
    _close([out, grad_q, *rest], [expected, *grads])


def test_short_rows_on_a_gpu_are_dense_and_long_ones_are_not(monkeypatch):
    """Rows that do not fit at once are computed in turn, with the same result."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 3, 40, 2, 8)).astype(np.float32)
    ids = np.repeat(np.arange(1, 5), 10)[None].repeat(3, axis=0).astype(np.int32)
    inputs = q, k, v, ids, ids, None
    out, lse = gpu_dense.forward(*inputs)
    monkeypatch.setattr(gpu_dense, "_LOGITS", 2 * 40 * 40)  # one row of two heads
    for one, other in zip(gpu_dense.forward(*inputs), (out, lse), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    monkeypatch.setattr(gpu_dense.xla_flash, "forward", lambda *_: "flash")
    monkeypatch.setattr(gpu_dense, "_LONGEST", 39)
    assert gpu_dense.forward(*inputs) == "flash"
    assert attention.ENGINES["gpu"] is gpu_dense.ENGINE

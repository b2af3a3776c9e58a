"""Packed attention against a float64 loop over segments; what padding may not do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.attention import attention
from soraxla.ops.engines import xla_flash
from tests.ops import exact
from tests.ops.rows import random_rows, row


def _qkv(b=2, m=9, n=2, k=8):
    rng = np.random.default_rng(0)
    shapes = [(b, 12, n, k), (b, m, n, k), (b, m, n, k)]
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


# Three segments, the second one token long; row 2 has a segment (2) without keys,
# keys (3) without a query, and padding on both sides.
Q_IDS = np.array([[1] * 5 + [2] + [3] * 6, [1] * 4 + [2] * 3 + [0] * 5], np.int32)
KV_IDS = np.array([[1, 1, 2, 3, 3, 3, 3, 3, 0], [1] * 3 + [3] * 2 + [0] * 4], np.int32)


@jax.jit
def _attend(q, k, v, q_ids, kv_ids, bias=None):
    return attention(q, k, v, q_segment_ids=q_ids, kv_segment_ids=kv_ids, kv_bias=bias)


@pytest.mark.parametrize("biased", [False, True])
def test_it_is_every_segment_s_own_attention(biased):
    q, k, v = _qkv()
    bias = np.random.default_rng(1).normal(size=KV_IDS.shape).astype(np.float32) * 3
    out = _attend(q, k, v, Q_IDS, KV_IDS, *([bias] if biased else []))
    expected, _ = exact.attend(q, k, v, Q_IDS, KV_IDS, bias * biased)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    nothing = (Q_IDS == 0) | ((Q_IDS == 2) & (np.arange(2) == 1)[:, None])
    assert np.all(np.asarray(out)[nothing] == 0.0)


def _packings():
    """Ids of queries and of keys, by their lengths."""
    fixed = [[[300]], [[170, 90]], [[], [128, 128]], [[3] * 100]]
    same = [row(*segments, length=300) for rows in fixed for segments in rows]
    rng = np.random.default_rng(0)
    for length, m in [(300, 300), (256, 200), (131, 517), (40, 129), (517, 3)]:
        shared = random_rows(rng, 3, max(length, m))
        apart = random_rows(rng, 3, length), random_rows(rng, 3, m)
        # Nothing asks for contiguous or ascending ids.
        shuffled = (rng.integers(0, 4, (2, n), dtype=np.int32) for n in (length, m))
        cut = shared[:, :length], shared[:, :m]
        parts = [*zip(cut, apart, shuffled, strict=True)]
        if length == m == 300:
            parts = [(same, *part) for part in parts]
        ids = (np.concatenate(part) for part in parts)
        often = (length, m) == (131, 517)
        marks = [] if often else [pytest.mark.slow]
        yield pytest.param(*ids, id=f"{length}x{m}", marks=marks)


@jax.jit
def _attend_and_back(q, k, v, q_ids, kv_ids, bias, grad):
    out, back = jax.vjp(
        lambda q, k, v, bias: _attend(q, k, v, q_ids, kv_ids, bias), q, k, v, bias
    )
    return out, *back(grad)


def _random_inputs(q_ids, kv_ids):
    """q, k, v, the ids, the bias, and the gradient of the output."""
    rng = np.random.default_rng(1)
    q, k, v, grad = (
        rng.normal(size=(*ids.shape, 2, 8)).astype(np.float32)
        for ids in (q_ids, kv_ids, kv_ids, q_ids)
    )
    bias = rng.normal(size=kv_ids.shape).astype(np.float32)
    return q, k, v, q_ids, kv_ids, bias, grad


@pytest.mark.parametrize("q_ids, kv_ids", list(_packings()))
def test_values_and_gradients_are_those_of_every_segment_alone(q_ids, kv_ids):
    """Rows of one, many, no and a hundred segments, packed and shuffled."""
    inputs = _random_inputs(q_ids, kv_ids)
    out, _, *grads = exact.attend(*inputs)
    for found, expected in zip(_attend_and_back(*inputs), (out, *grads), strict=True):
        scale = float(np.max(np.abs(expected))) or 1.0
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.slow
def test_the_block_changes_nothing(monkeypatch):
    """Nor the gradients, though the row is no multiple of the block."""
    ids = row(170, 90, length=300)[None]
    inputs = _random_inputs(ids, ids)
    out, _, *grads = exact.attend(*inputs)
    for block in (128, 300):
        monkeypatch.setattr(xla_flash, "_BLOCK", block)
        found = jax.jit(_attend_and_back.__wrapped__)(*inputs)
        for x, y in zip(found, (out, *grads), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=2e-6)


def test_blocks_of_other_segments_are_never_visited():
    """NaN in a segment of whole blocks stays there; a mask would spread 0 · NaN."""
    block = xla_flash._BLOCK
    ids = row(2 * block, block, 2 * block, length=6 * block)[None]
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 6 * block, 1, 4)) for _ in range(3))
    q, k, v = (np.where((ids == 2)[:, :, None, None], np.nan, x) for x in (q, k, v))

    def run(q, k, v):
        out = attention(q, k, v, q_segment_ids=ids, kv_segment_ids=ids)
        return jnp.sum(jnp.where((ids == 2)[:, :, None, None], 0.0, out)), out

    args = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
    grads, out = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(*args)
    for x in (out, *grads):
        assert np.all(np.isfinite(np.asarray(x)[ids != 2]))
        assert np.all(np.asarray(x)[ids == 0] == 0.0)


@pytest.mark.slow
def test_memory_grows_with_the_length_alone():
    def temporaries(length):
        x = jax.ShapeDtypeStruct((1, length, 1, 16), jnp.bfloat16)
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def run(q, k, v, ids):
            out = attention(q, k, v, q_segment_ids=ids, kv_segment_ids=ids)
            return jnp.sum(out.astype(jnp.float32))

        run = jax.jit(jax.grad(run, argnums=(0, 1, 2)))
        memory = run.lower(x, x, x, ids).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporaries(16384) < 4.2 * temporaries(4096)


@pytest.mark.slow
def test_it_works_in_a_rematerialized_scan():
    """As in the model: layers scanned, their residuals recomputed; remat == plain."""
    q, k, v = _qkv(m=12)

    def loss(layer, weights):
        return jnp.sum(jnp.sin(jax.lax.scan(layer, q, weights)[0]))

    def layer(x, weight):
        x = x + attention(
            weight * x, k * weight, v, q_segment_ids=Q_IDS, kv_segment_ids=Q_IDS
        )
        return x, None

    weights = jnp.array([0.5, 1.5])
    remat = jax.checkpoint(layer, prevent_cse=False)
    plain, again = jax.jit(
        lambda w: [jax.grad(functools.partial(loss, x))(w) for x in (layer, remat)]
    )(weights)
    assert np.all(np.isfinite(plain)) and np.all(np.asarray(plain) != 0.0)
    np.testing.assert_allclose(plain, again, rtol=1e-5, atol=0)


def test_no_gradient_reaches_padding_or_another_segment():
    q, k, v = _qkv()

    def first_segment(q, k, v):
        out = attention(q, k, v, q_segment_ids=Q_IDS, kv_segment_ids=KV_IDS)
        return jnp.sum(jnp.where((Q_IDS == 1)[:, :, None, None], jnp.cos(out), 0.0))

    grads = jax.jit(jax.grad(first_segment, argnums=(0, 1, 2)))(q, k, v)
    for grad, ids in zip(grads, (Q_IDS, KV_IDS, KV_IDS), strict=True):
        assert np.all(np.asarray(grad)[ids != 1] == 0.0)
        assert np.all(np.any(np.asarray(grad)[ids == 1] != 0.0, axis=(-2, -1)))


def test_a_key_biased_by_log_n_counts_as_n_keys():
    q, k, v = _qkv(b=1, m=3)
    ids = np.ones((1, 12), np.int32)
    bias = np.log(np.array([[1.0, 1.0, 7.0]], np.float32))
    one = _attend(q, k, v, ids, ids[:, :3], bias)
    many = [np.concatenate([x, np.repeat(x[:, 2:], 6, axis=1)], axis=1) for x in (k, v)]
    all_keys, _ = exact.attend(q, *many, ids, ids[:, :9])
    np.testing.assert_allclose(one, all_keys, rtol=0, atol=1e-6)


def test_logits_are_fp32_under_bf16():
    """100 and 100.25 are one number in bf16, and the mean of ±1 would be 0."""
    q = jnp.array([16.0, 1.0, 0.0, 0.0], jnp.bfloat16).reshape(1, 1, 1, 4)
    k = jnp.array([[12.5, 0.0, 0.0, 0.0], [12.5, 0.5, 0.0, 0.0]], jnp.bfloat16)
    v = jnp.broadcast_to(jnp.array([[-1.0], [1.0]], jnp.bfloat16), (2, 4))
    ids = np.ones((1, 2), np.int32)
    k, v = (x.reshape(1, 2, 1, 4) for x in (k, v))
    out = _attend(q, k, v, ids[:, :1], ids)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), np.tanh(0.125), atol=2e-3)

"""Packed attention against a float64 loop over segments; what padding may not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import soraxla.attention as attention_module
from soraxla.attention import attention


def _qkv(b=2, m=9, n=2, k=8):
    rng = np.random.default_rng(0)
    shapes = [(b, 12, n, k), (b, m, n, k), (b, m, n, k)]
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


# Three segments, the second one token long; row 2 has a segment (2) without keys,
# keys (3) without a query, and padding on both sides.
Q_IDS = np.array([[1] * 5 + [2] + [3] * 6, [1] * 4 + [2] * 3 + [0] * 5], np.int32)
KV_IDS = np.array([[1, 1, 2, 3, 3, 3, 3, 3, 0], [1] * 3 + [3] * 2 + [0] * 4], np.int32)


def _reference(q, k, v, q_ids, kv_ids, bias):
    """Softmax attention of each segment alone, float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for segment in set(q_ids[b]) - {0}:
            at, to = q_ids[b] == segment, kv_ids[b] == segment
            if not to.any():
                continue
            logits = np.einsum("lnk,mnk->nlm", q[b, at], k[b, to]) / q.shape[-1] ** 0.5
            weights = np.exp(logits + bias[b, to][None, None, :])
            weights /= weights.sum(-1, keepdims=True)
            out[b, at] = np.einsum("nlm,mnk->lnk", weights, v[b, to])
    return out


@pytest.mark.parametrize("biased", [False, True])
def test_it_is_every_segment_s_own_attention(biased):
    q, k, v = _qkv()
    bias = np.random.default_rng(1).normal(size=KV_IDS.shape).astype(np.float32) * 3
    out = attention(
        q,
        k,
        v,
        q_segment_ids=Q_IDS,
        kv_segment_ids=KV_IDS,
        kv_bias=bias if biased else None,
    )
    expected = _reference(q, k, v, Q_IDS, KV_IDS, bias * biased)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    nothing = (Q_IDS == 0) | ((Q_IDS == 2) & (np.arange(2) == 1)[:, None])
    assert np.all(np.asarray(out)[nothing] == 0.0)


def test_blocks_of_queries_change_nothing(monkeypatch):
    """Nor their gradients, though the row is no multiple of the block."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 300, 1, 4)).astype(np.float32) for _ in range(3))
    ids = np.repeat([1, 2, 0], [170, 90, 40])[None].astype(np.int32)

    def run(q, k, v):
        out = attention(q, k, v, q_segment_ids=ids, kv_segment_ids=ids)
        return jnp.sum(jnp.sin(out)), out

    run = jax.grad(run, argnums=(0, 1, 2), has_aux=True)
    whole = run(q, k, v)
    monkeypatch.setattr(attention_module, "_LOGITS_PER_BLOCK", 128 * 300)
    blocks = run(q, k, v)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6), whole, blocks
    )


def test_no_gradient_reaches_padding_or_another_segment():
    q, k, v = _qkv()

    def first_segment(q, k, v):
        out = attention(q, k, v, q_segment_ids=Q_IDS, kv_segment_ids=KV_IDS)
        return jnp.sum(jnp.where((Q_IDS == 1)[:, :, None, None], jnp.cos(out), 0.0))

    grads = jax.grad(first_segment, argnums=(0, 1, 2))(q, k, v)
    for grad, ids in zip(grads, (Q_IDS, KV_IDS, KV_IDS), strict=True):
        assert np.all(np.asarray(grad)[ids != 1] == 0.0)
        assert np.all(np.any(np.asarray(grad)[ids == 1] != 0.0, axis=(-2, -1)))


def test_a_key_biased_by_log_n_counts_as_n_keys():
    q, k, v = _qkv(b=1, m=3)
    ids = np.ones((1, 12), np.int32)
    bias = np.log(np.array([[1.0, 1.0, 7.0]], np.float32))
    one = attention(q, k, v, q_segment_ids=ids, kv_segment_ids=ids[:, :3], kv_bias=bias)
    many = [np.concatenate([x, np.repeat(x[:, 2:], 6, axis=1)], axis=1) for x in (k, v)]
    all_keys = attention(q, *many, q_segment_ids=ids, kv_segment_ids=ids[:, :9])
    np.testing.assert_allclose(one, all_keys, rtol=0, atol=1e-6)


def test_logits_are_fp32_under_bf16():
    """100 and 100.25 are one number in bf16, and the mean of ±1 would be 0."""
    q = jnp.array([16.0, 1.0, 0.0, 0.0], jnp.bfloat16).reshape(1, 1, 1, 4)
    k = jnp.array([[12.5, 0.0, 0.0, 0.0], [12.5, 0.5, 0.0, 0.0]], jnp.bfloat16)
    v = jnp.broadcast_to(jnp.array([[-1.0], [1.0]], jnp.bfloat16), (2, 4))
    ids = np.ones((1, 2), np.int32)
    out = attention(
        q,
        k.reshape(1, 2, 1, 4),
        v.reshape(1, 2, 1, 4),
        q_segment_ids=ids[:, :1],
        kv_segment_ids=ids,
    )
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), np.tanh(0.125), atol=2e-3)

"""Packed attention against a float64 loop over segments; what padding may not do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.attention import attention
from soraxla.ops.engines import xla_flash
from tests.ops.rows import random_rows, row


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


def _dense(q, k, v, bias, q_ids, kv_ids):
    """All logits at once, fp32; plain autodiff."""
    logits = jnp.einsum("blnk,bmnk->bnlm", q, k) / q.shape[-1] ** 0.5
    logits = logits + bias[:, None, None, :]
    visible = (q_ids[:, :, None] == kv_ids[:, None, :]) & (q_ids > 0)[:, :, None]
    visible = visible[:, None, :, :]
    weights = jax.nn.softmax(jnp.where(visible, logits, -1e30), axis=-1)
    return jnp.einsum("bnlm,bmnk->blnk", jnp.where(visible, weights, 0.0), v)


SAME_ROWS = [
    [[300]],
    [[170, 90]],
    [[], [128, 128]],
    [[3] * 100],
]


def _packings():
    for rows in SAME_ROWS:
        ids = np.stack([row(*segments, length=300) for segments in rows])
        yield pytest.param(ids, ids, id="-".join(str(len(x)) for x in rows))
    rng = np.random.default_rng(0)
    for length, m in [(300, 300), (256, 200), (131, 517), (40, 129), (517, 3)]:
        shared = random_rows(rng, 3, max(length, m))
        yield pytest.param(shared[:, :length], shared[:, :m], id=f"{length}x{m} cut")
        ids = random_rows(rng, 3, length), random_rows(rng, 3, m)
        yield pytest.param(*ids, id=f"{length}x{m}")
    # Nothing asks for contiguous or ascending ids.
    shuffled = [
        rng.integers(0, 4, (2, length), dtype=np.int32) for length in (300, 200)
    ]
    yield pytest.param(*shuffled, id="shuffled")


@pytest.mark.parametrize("q_ids, kv_ids", list(_packings()))
def test_values_and_gradients_are_the_dense_ones(q_ids, kv_ids):
    rng = np.random.default_rng(1)
    lengths = [q_ids.shape[1], kv_ids.shape[1], kv_ids.shape[1], q_ids.shape[1]]
    q, k, v, grad = (
        rng.normal(size=(len(q_ids), length, 2, 8)).astype(np.float32)
        for length in lengths
    )
    bias = rng.normal(size=kv_ids.shape).astype(np.float32)

    def run(q, k, v, bias):
        return attention(
            q, k, v, q_segment_ids=q_ids, kv_segment_ids=kv_ids, kv_bias=bias
        )

    @jax.jit
    def both(*args):
        out, back = jax.vjp(run, *args)
        exact, exact_back = jax.vjp(partial(_dense, q_ids=q_ids, kv_ids=kv_ids), *args)
        return (out, *back(grad)), (exact, *exact_back(grad))

    for ours, exact in zip(*both(q, k, v, bias), strict=True):
        scale = float(jnp.max(jnp.abs(exact))) or 1.0
        np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-6 * scale)


def test_the_block_changes_nothing(monkeypatch):
    """Nor the gradients, though the row is no multiple of the block."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 300, 1, 4)).astype(np.float32) for _ in range(3))
    ids = row(170, 90, length=300)[None]

    def run(q, k, v):
        out = attention(q, k, v, q_segment_ids=ids, kv_segment_ids=ids)
        return jnp.sum(jnp.sin(out)), out

    run = jax.grad(run, argnums=(0, 1, 2), has_aux=True)
    blocks = run(q, k, v)
    monkeypatch.setattr(xla_flash, "_BLOCK", 300)
    whole = run(q, k, v)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6), whole, blocks
    )


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
    grads, out = jax.grad(run, argnums=(0, 1, 2), has_aux=True)(*args)
    for x in (out, *grads):
        assert np.all(np.isfinite(np.asarray(x)[ids != 2]))
        assert np.all(np.asarray(x)[ids == 0] == 0.0)


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
    plain = jax.jit(jax.grad(lambda w: loss(layer, w)))(weights)
    remat = jax.checkpoint(layer, prevent_cse=False)
    again = jax.jit(jax.grad(lambda w: loss(remat, w)))(weights)
    assert np.all(np.isfinite(plain)) and np.all(np.asarray(plain) != 0.0)
    np.testing.assert_allclose(plain, again, rtol=1e-5, atol=0)


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

"""The TPU engine, interpreted, against float64 NumPy; what it skips."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.engines import tpu_splash
from soraxla.ops.engines.engine import Engine
from tests.ops import exact
from tests.ops.rows import random_rows, row

BLOCK = 128
SPLASH = Engine(
    *(partial(method, block=BLOCK, interpret=True) for method in tpu_splash.ENGINE)
)


def _inputs(q_ids, kv_ids, *, biased, k=8, n=2):
    rng = np.random.default_rng(1)
    tokens, others = (len(q_ids), q_ids.shape[1], n, k), (*kv_ids.shape, n, k)
    q, key, v, grad = (
        rng.normal(size=shape).astype(np.float32)
        for shape in (tokens, others, others, tokens)
    )
    bias = rng.normal(size=kv_ids.shape).astype(np.float32) * 3 if biased else None
    return (q, key, v, q_ids, kv_ids, bias), grad


@jax.jit
def _everything(inputs, grad):
    """Output, logsumexp, and the gradients of q, k, v and the bias."""
    out, lse = SPLASH.forward(*inputs)
    delta = jnp.sum(out * grad, axis=-1)
    return out, lse, *SPLASH.backward(*inputs, lse, delta, grad)


def _assert_exact(inputs, grad):
    found, expected = _everything(inputs, grad), exact.attend(*inputs, grad)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = float(np.max(np.abs(np.where(y < -1e29, 0.0, y))))
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * scale)


def _packings(length):
    """Rows with one, many, no and a hundred segments, some without padding."""
    rows = [[length], [170, 90], [], [128, 128], [2] * 100, [1] * 3 + [250]]
    return np.stack([row(*segments, length=length) for segments in rows])


ROWS = np.concatenate([_packings(400), random_rows(np.random.default_rng(0), 6, 400)])


@pytest.mark.slow
def test_rows_are_the_dense_ones():
    """Packed ones, and two whose ids stand in any order."""
    q_ids, kv_ids = ROWS.copy(), ROWS.copy()
    q_ids[-2:], kv_ids[-2:] = np.random.default_rng(0).integers(0, 4, (2, 2, 400))
    _assert_exact(*_inputs(q_ids, kv_ids, biased=False))


@pytest.mark.slow
def test_biased_cross_attention_is_the_dense_one():
    """Text of another length, segments without text, and a head dim of 126: with the
    three columns of the bias it is more than the lanes."""
    rng = np.random.default_rng(0)
    q_ids = np.concatenate([_packings(299), random_rows(rng, 4, 299)])
    kv_ids = np.concatenate([random_rows(rng, 6, 140), q_ids[6:, 10:150]])
    _assert_exact(*_inputs(q_ids, kv_ids, biased=True, k=126, n=1))


@pytest.mark.slow
def test_a_row_too_long_for_the_tables_is_computed_in_shares(monkeypatch):
    """Two blocks of queries, or of keys, to a share; the last has one."""
    cut = tpu_splash._Tiling.of
    monkeypatch.setattr(
        tpu_splash._Tiling, "of", lambda length, block, _: cut(length, block, 2)
    )
    ids = _packings(5 * BLOCK - 1)
    _assert_exact(*_inputs(ids, ids, biased=False))


def test_tables_outgrow_no_memory():
    """1 MiB holds two tables of int32, whose rows the compiler fills up to 128."""
    for length in (10_000, 300_000, 900_000, 2_900_000):
        kv_blocks = -(-length // tpu_splash._BLOCK)
        rows = tpu_splash._max_table_rows(kv_blocks)
        q_tiling = tpu_splash._Tiling.of(length, tpu_splash._BLOCK, rows)
        assert q_tiling.blocks * -(-kv_blocks // 128) * 128 * 8 < 0.95 * 2**20
        assert length <= q_tiling.length < 1.02 * length + 128 * q_tiling.blocks
        assert q_tiling.size <= tpu_splash._BLOCK and q_tiling.size % 128 == 0


def test_a_gradient_too_long_for_the_tables_is_refused():
    shape = jax.ShapeDtypeStruct((1, 1_000_000, 1, 128), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct(shape.shape[:2], jnp.int32)
    lse = jax.ShapeDtypeStruct(shape.shape[:3], jnp.float32)
    with pytest.raises(ValueError, match=r"at most 917504 tokens.*not 1000000: spread"):
        jax.eval_shape(
            tpu_splash.backward, *[shape] * 3, ids, ids, None, lse, lse, shape
        )


@pytest.mark.parametrize("column_major", [False, True])
def test_a_skipped_block_names_the_next_needed_one(column_major):
    ids = np.stack([row(100, 156, 200, 300, length=8 * BLOCK)])[0]
    cut = tpu_splash._Tiling.of(len(ids), BLOCK, 8)
    tables = jax.jit(
        lambda ids: tpu_splash._tables(ids, ids, cut, cut, column_major=column_major)
    )(ids)
    needed, following = (
        np.asarray(x)[0].T if column_major else np.asarray(x)[0]
        for x in (tables.block_mask, tables.data_next)
    )
    assert 0 < np.count_nonzero(needed) < needed.size // 2
    visits = list(zip(*np.nonzero(needed), strict=True))
    for i, j in np.ndindex(needed.shape):
        later = [visit for visit in visits if visit >= (i, j)]
        assert following[i, j] == (later[0] if later else visits[-1])[1]


def test_blocks_of_other_segments_are_never_visited():
    """NaN in a segment of whole blocks stays there; a mask would spread 0 · NaN."""
    ids = np.repeat(row(BLOCK, BLOCK, 100, length=400)[None], len(ROWS), axis=0)
    (*qkv, _, _, _), grad = _inputs(ids, ids, biased=False)
    poisoned = (ids == 2)[:, :, None, None]
    q, k, v, grad = (np.where(poisoned, np.nan, x) for x in (*qkv, grad))
    for x in _everything((q, k, v, ids, ids, None), grad):
        if x is not None:
            assert np.all(np.isnan(np.asarray(x)[ids == 2]))
            assert np.all(np.isfinite(np.asarray(x)[ids != 2]))


def test_a_bias_is_exact_under_bf16():
    """log 509 is 6.2324; the nearest number of bf16 is 6.21875."""
    q = np.zeros((1, 1, 1, 8), np.float32)
    v = np.array([0.0, 1.0], np.float32)[None, :, None, None]
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (q, 0.0 * v + q, v + q))
    ids = np.ones((1, 2), np.int32)
    bias = np.log(np.array([[1.0, 509.0]], np.float32))
    _, lse = jax.jit(SPLASH.forward)(q, k, v, ids[:, :1], ids, bias)
    np.testing.assert_allclose(lse, np.log(510.0), rtol=0, atol=2e-6)

"""Flash attention (arXiv 2205.14135) over packed rows in plain XLA, for any platform.

Blocks of queries meet blocks of keys with a running softmax; in rows whose ids ascend,
blocks of other segments are skipped. The layout suits a CPU: rows and blocks run one
after the other.

I and J are blocks of queries and of keys, Q and M a query and a key of a block. Logits
have the shape (key, query): sums over keys then run along the major axis, which XLA
vectorizes on a CPU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from soraxla.ops.engines.blocks import blocks_meet
from soraxla.ops.engines.engine import LOWEST, Engine

# The most queries or keys in a block. On a CPU with packed rows of 1,024 tokens, larger
# blocks gain little (a fifth at 1,024); smaller ones skip more of a long row but lose a
# third at 128.
_BLOCK = 256


class _Queries(NamedTuple):
    """Queries in blocks, stacked or single; the backward pass sets the last three."""

    q_NQK: jax.Array
    ids_Q: jax.Array
    lse_NQ: jax.Array | None = None
    grad_NQK: jax.Array | None = None  # of the output
    delta_NQ: jax.Array | None = None  # Σₖ output · grad


class _Keys(NamedTuple):
    """Keys and values in blocks, stacked or single."""

    k_NMK: jax.Array
    v_NMK: jax.Array
    ids_M: jax.Array
    bias_M: jax.Array | None
    transposed_NKM: jax.Array  # v, or k in the backward pass


def forward(q, k, v, q_ids, kv_ids, kv_bias):
    """Computes `Engine.forward`."""
    queries = _Queries(_to_blocks(q), _to_blocks(q_ids))
    keys = _key_blocks(k, v, kv_ids, kv_bias, transposed=v)
    bounds_BI = _overlap(queries.ids_Q, keys.ids_M)

    def one_row(row):
        queries, bounds_I, keys = row
        return jax.lax.map(
            lambda x: _forward_block(x[0], x[1], keys), (queries, bounds_I)
        )

    out_BINKQ, lse_BINQ = jax.lax.map(one_row, (queries, bounds_BI, keys))
    out = _from_blocks(out_BINKQ.swapaxes(-1, -2), q.shape[1])
    return out, _from_blocks(lse_BINQ, q.shape[1])


def _forward_block(query: _Queries, bounds, keys: _Keys):
    """Returns output (N, K, Q) and logsumexp (N, Q) of one block of queries."""
    dtype = keys.v_NMK.dtype
    n, block, d = query.q_NQK.shape

    def step(j, carry):
        out_NKQ, max_NQ, sum_NQ = carry
        key = _at(keys, j)
        logits_NMQ = _logits(query, key)
        new_max_NQ = jnp.maximum(max_NQ, jnp.max(logits_NMQ, axis=1))
        weights_NMQ = jnp.exp(logits_NMQ - new_max_NQ[:, None, :])
        decay_NQ = jnp.exp(max_NQ - new_max_NQ)
        sum_NQ = decay_NQ * sum_NQ + jnp.sum(weights_NMQ, axis=1)
        add_NKQ = _dot("nkm,nmq->nkq", key.transposed_NKM, weights_NMQ.astype(dtype))
        return decay_NQ[:, None, :] * out_NKQ + add_NKQ, new_max_NQ, sum_NQ

    zero = jnp.zeros((n, d, block), jnp.float32)
    lowest = jnp.full((n, block), LOWEST, jnp.float32)
    start = (zero, lowest, jnp.zeros_like(lowest))
    out_NKQ, max_NQ, sum_NQ = jax.lax.fori_loop(bounds[0], bounds[1], step, start)
    sum_NQ = jnp.where(sum_NQ > 0.0, sum_NQ, 1.0)  # without keys, 0 / 1
    return (out_NKQ / sum_NQ[:, None, :]).astype(dtype), max_NQ + jnp.log(sum_NQ)


def backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
    """Computes `Engine.backward`."""
    queries = _Queries(
        _to_blocks(q),
        _to_blocks(q_ids),
        _to_blocks(lse).swapaxes(2, 3),
        _to_blocks(grad),
        _to_blocks(delta).swapaxes(2, 3),
    )
    keys = _key_blocks(k, v, kv_ids, kv_bias, transposed=k)
    bounds_BJ = _overlap(keys.ids_M, queries.ids_Q)

    def one_row(row):
        keys, bounds_J, queries = row
        grad_q = jnp.zeros(queries.q_NQK.swapaxes(-1, -2).shape, jnp.float32)
        return jax.lax.scan(
            lambda grad_q, x: _backward_block(grad_q, x[0], x[1], queries),
            grad_q,
            (keys, bounds_J),
        )

    grad_q, (grad_k, grad_v, grad_bias) = jax.lax.map(
        one_row, (keys, bounds_BJ, queries)
    )
    grad_q = _from_blocks(grad_q.swapaxes(-1, -2).astype(q.dtype), q.shape[1])
    grad_k, grad_v = (_from_blocks(x, k.shape[1]) for x in (grad_k, grad_v))
    if kv_bias is not None:
        grad_bias = grad_bias.reshape(kv_bias.shape[0], -1)[:, : kv_bias.shape[1]]
        grad_bias = grad_bias.astype(kv_bias.dtype)
    return grad_q, grad_k, grad_v, grad_bias


def _backward_block(grad_q_INKQ, key: _Keys, bounds, queries: _Queries):
    """Adds one block of keys to the gradient of q; returns those of k, v and bias."""

    def step(i, carry):
        grad_q_INKQ, grad_k_NMK, grad_v_NMK, grad_bias_M = carry
        query = _at(queries, i)
        weights_NMQ = jnp.exp(_logits(query, key) - query.lse_NQ[:, None, :])
        grad_weights_NMQ = _dot("nmk,nqk->nmq", key.v_NMK, query.grad_NQK)
        grad_NMQ = weights_NMQ * (grad_weights_NMQ - query.delta_NQ[:, None, :])
        if grad_bias_M is not None:
            grad_bias_M = grad_bias_M + jnp.sum(grad_NMQ, axis=(0, 2))
        weights_NMQ = weights_NMQ.astype(query.grad_NQK.dtype)
        grad_v_NMK = grad_v_NMK + _dot("nmq,nqk->nmk", weights_NMQ, query.grad_NQK)
        grad_NMQ = (scale * grad_NMQ).astype(query.q_NQK.dtype)
        grad_k_NMK = grad_k_NMK + _dot("nmq,nqk->nmk", grad_NMQ, query.q_NQK)
        add_NKQ = _dot("nkm,nmq->nkq", key.transposed_NKM, grad_NMQ)
        grad_q_INKQ = jax.lax.dynamic_update_index_in_dim(
            grad_q_INKQ, _at(grad_q_INKQ, i) + add_NKQ, i, 0
        )
        return grad_q_INKQ, grad_k_NMK, grad_v_NMK, grad_bias_M

    scale = key.k_NMK.shape[-1] ** -0.5
    zero = jnp.zeros(key.k_NMK.shape, jnp.float32)
    zero_bias = None if key.bias_M is None else jnp.zeros(zero.shape[1], jnp.float32)
    start = (grad_q_INKQ, zero, zero, zero_bias)
    grad_q_INKQ, grad_k, grad_v, grad_bias = jax.lax.fori_loop(
        bounds[0], bounds[1], step, start
    )
    grads = grad_k.astype(key.k_NMK.dtype), grad_v.astype(key.v_NMK.dtype), grad_bias
    return grad_q_INKQ, grads


def _logits(query: _Queries, key: _Keys):
    """Returns logits (N, M, Q) in fp32; -inf if the query does not see the key."""
    scale = key.k_NMK.shape[-1] ** -0.5
    logits_NMQ = scale * _dot("nmk,nqk->nmq", key.k_NMK, query.q_NQK)
    if key.bias_M is not None:
        logits_NMQ = logits_NMQ + key.bias_M.astype(jnp.float32)[None, :, None]
    visible_MQ = key.ids_M[:, None] == query.ids_Q[None, :]
    visible_MQ = visible_MQ & (query.ids_Q > 0)[None, :]
    return jnp.where(visible_MQ[None, :, :], logits_NMQ, -jnp.inf)


def _dot(spec: str, x, y):
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _overlap(ids_BIQ, ids_BJM):
    """Returns the first and one past the last block of j that meet a segment of i."""
    meet_BIJ = blocks_meet(ids_BIQ, ids_BJM)
    first = jnp.argmax(meet_BIJ, axis=-1)
    last = meet_BIJ.shape[-1] - jnp.argmax(meet_BIJ[:, :, ::-1], axis=-1)
    return first, jnp.where(jnp.any(meet_BIJ, axis=-1), last, 0)


def _key_blocks(k, v, kv_ids, kv_bias, *, transposed) -> _Keys:
    return _Keys(
        _to_blocks(k),
        _to_blocks(v),
        _to_blocks(kv_ids),
        None if kv_bias is None else _to_blocks(kv_bias),
        _to_blocks(transposed).swapaxes(-1, -2),
    )


def _to_blocks(x):
    """Reshapes (B, L, ...) to (B, I, Q, ...), heads before queries, padded with 0."""
    blocks = -(-x.shape[1] // _BLOCK)
    size = -(-x.shape[1] // blocks)
    pad = [(0, 0), (0, blocks * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, pad).reshape(x.shape[0], blocks, size, *x.shape[2:])
    return x.swapaxes(2, 3) if x.ndim == 5 else x


def _from_blocks(x_BINQ, length: int):
    """Reshapes (B, I, N, Q, ...) to (B, L, N, ...) and removes the padding."""
    x_BIQN = x_BINQ.swapaxes(2, 3)
    x_BLN = x_BIQN.reshape(x_BIQN.shape[0], -1, *x_BIQN.shape[3:])
    return x_BLN[:, :length]


def _at(stack, i):
    """Returns entry i of every array in a stack of blocks."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), stack
    )


ENGINE = Engine(forward, backward)

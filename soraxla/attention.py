"""Attention over packed rows: a token sees its own segment and nothing else."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from soraxla.types import Array

# Logits of one head held at once. 2048 x 2048 still fits a CPU's caches well enough
# that blocking costs more than it saves; beyond it memory grows as L² without blocks.
_LOGITS_PER_BLOCK = 2**22

# Far below any logit, yet finite: -inf minus -inf is NaN in a row without keys.
_MASKED = -1e30


def attention(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b m n k"],
    v: Float[Array, "b m n k"],
    *,
    q_segment_ids: Int[Array, "b l"],
    kv_segment_ids: Int[Array, "b m"],
    kv_bias: Float[Array, "b m"] | None = None,
) -> Float[Array, "b l n k"]:
    """Softmax attention of each query to the keys that bear its segment id.

    Logits are scaled by 1/√k; logits and softmax are fp32. A query of id 0 (padding),
    or whose segment has no key, gets exactly 0; keys of id 0 get exactly no gradient.

    Args:
        kv_bias: added to every logit of a key; log(n) makes one key count as n.
    """
    block = max(128, _LOGITS_PER_BLOCK // k.shape[1])
    if q.shape[1] <= block:
        return _attend(q, q_segment_ids, k, v, kv_segment_ids, kv_bias)
    return _attend_by_blocks(q, q_segment_ids, k, v, kv_segment_ids, kv_bias, block)


def _attend(q, q_segment_ids, k, v, kv_segment_ids, kv_bias):
    scale = q.shape[-1] ** -0.5
    logits = scale * jnp.einsum(
        "blnk,bmnk->bnlm", q, k, preferred_element_type=jnp.float32
    )
    if kv_bias is not None:
        logits = logits + kv_bias.astype(jnp.float32)[:, None, None, :]
    visible = q_segment_ids[:, :, None] == kv_segment_ids[:, None, :]
    visible = (visible & (q_segment_ids[:, :, None] > 0))[:, None, :, :]
    weights = jax.nn.softmax(jnp.where(visible, logits, _MASKED), axis=-1)
    # A query without keys comes out of the softmax uniform, not zero.
    weights = jnp.where(visible, weights, 0.0).astype(v.dtype)
    return jnp.einsum("bnlm,bmnk->blnk", weights, v)


def _attend_by_blocks(q, q_segment_ids, k, v, kv_segment_ids, kv_bias, block):
    """Blocks of queries in turn, each recomputed in the backward pass: O(L) memory."""
    b, length, n, d = q.shape
    blocks = -(-length // block)
    pad = blocks * block - length
    q = jnp.pad(q, ((0, 0), (0, pad), (0, 0), (0, 0)))
    ids = jnp.pad(q_segment_ids, ((0, 0), (0, pad)))
    q = q.reshape(b, blocks, block, n, d).swapaxes(0, 1)
    ids = ids.reshape(b, blocks, block).swapaxes(0, 1)

    @jax.checkpoint
    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _attend(block[0], block[1], k, v, kv_segment_ids, kv_bias)

    out = jax.lax.map(one, (q, ids)).swapaxes(0, 1)
    return out.reshape(b, blocks * block, n, d)[:, :length]

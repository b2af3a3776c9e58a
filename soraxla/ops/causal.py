"""Causal attention over packed text: a token sees its segment up to itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from soraxla.core.types import Array

_MASKED = -1e30  # finite, so that a row of padding only is not NaN


def causal_attention(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b m n k"],
    v: Float[Array, "b m n k"],
    *,
    q_segment_ids: Int[Array, "b l"],
    kv_segment_ids: Int[Array, "b m"],
    q_index: Int[Array, "b l"],
    kv_index: Int[Array, "b m"],
) -> Float[Array, "b l n k"]:
    """Computes softmax attention of each query to its segment's keys up to its index.

    As `ops.attention.attention`, but of O(l·m) memory: a row has few text tokens beside
    those of its clips. A query of id 0 (padding), or without a key, gets exactly 0.
    """
    same = q_segment_ids[:, :, None] == kv_segment_ids[:, None, :]
    seen = same & (q_segment_ids > 0)[:, :, None]
    seen = (seen & (kv_index[:, None, :] <= q_index[:, :, None]))[:, None]
    logits = jnp.einsum("blnk,bmnk->bnlm", q, k, preferred_element_type=jnp.float32)
    logits = jnp.where(seen, logits * q.shape[-1] ** -0.5, _MASKED)
    weights = jnp.where(seen, jax.nn.softmax(logits, axis=-1), 0.0)
    return jnp.einsum("bnlm,bmnk->blnk", weights.astype(v.dtype), v)

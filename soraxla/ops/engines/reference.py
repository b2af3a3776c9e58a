"""Packed attention with all logits at once, in fp32: the reference for other engines.

It writes the engines' formulas in full. Memory is O(L·M).
"""

import jax.numpy as jnp

from soraxla.ops.engines.engine import LOWEST, Engine


def forward(q, k, v, q_ids, kv_ids, kv_bias):
    """Computes `Engine.forward`."""
    logits_BNLM = _logits(q, k, q_ids, kv_ids, kv_bias)
    max_BNL = jnp.maximum(jnp.max(logits_BNLM, axis=-1), LOWEST)
    weights_BNLM = jnp.exp(logits_BNLM - max_BNL[..., None])
    sum_BNL = jnp.sum(weights_BNLM, axis=-1)
    sum_BNL = jnp.where(sum_BNL > 0.0, sum_BNL, 1.0)  # without keys, 0 / 1
    weights_BNLM = weights_BNLM / sum_BNL[..., None]
    out = jnp.einsum("bnlm,bmnk->blnk", weights_BNLM, v.astype(jnp.float32))
    return out.astype(q.dtype), (max_BNL + jnp.log(sum_BNL)).swapaxes(1, 2)


def backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
    """Computes `Engine.backward`."""
    q_, k_, v_, grad = (x.astype(jnp.float32) for x in (q, k, v, grad))
    logits_BNLM = _logits(q, k, q_ids, kv_ids, kv_bias)
    weights_BNLM = jnp.exp(logits_BNLM - lse.swapaxes(1, 2)[..., None])
    grad_v = jnp.einsum("bnlm,blnk->bmnk", weights_BNLM, grad)
    grad_BNLM = jnp.einsum("blnk,bmnk->bnlm", grad, v_)
    grad_BNLM = weights_BNLM * (grad_BNLM - delta.swapaxes(1, 2)[..., None])
    scale = q.shape[-1] ** -0.5
    grad_q = scale * jnp.einsum("bnlm,bmnk->blnk", grad_BNLM, k_)
    grad_k = scale * jnp.einsum("bnlm,blnk->bmnk", grad_BNLM, q_)
    grads = grad_q.astype(q.dtype), grad_k.astype(k.dtype), grad_v.astype(v.dtype)
    if kv_bias is None:
        return *grads, None
    return *grads, jnp.sum(grad_BNLM, axis=(1, 2)).astype(kv_bias.dtype)


def _logits(q, k, q_ids, kv_ids, kv_bias):
    """Returns logits (B, N, L, M) in fp32; -inf if the query does not see the key."""
    q, k = q.astype(jnp.float32), k.astype(jnp.float32)
    logits_BNLM = jnp.einsum("blnk,bmnk->bnlm", q, k) * q.shape[-1] ** -0.5
    if kv_bias is not None:
        logits_BNLM = logits_BNLM + kv_bias.astype(jnp.float32)[:, None, None, :]
    visible_BLM = q_ids[:, :, None] == kv_ids[:, None, :]
    visible_BLM = visible_BLM & (q_ids > 0)[:, :, None]
    return jnp.where(visible_BLM[:, None, :, :], logits_BNLM, -jnp.inf)


ENGINE = Engine(forward, backward)

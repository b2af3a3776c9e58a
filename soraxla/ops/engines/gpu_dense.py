"""Packed attention with all logits of a row at once, for short rows on GPUs.

A GPU multiplies whole matrices faster than it runs a loop over blocks, so rows of up to
4,096 tokens compute also the logits that the mask drops. Longer rows go to `xla_flash`.
Operands keep their dtype; logits, softmax and sums are fp32.
"""

import jax
import jax.numpy as jnp

from soraxla.ops.engines import xla_flash
from soraxla.ops.engines.engine import LOWEST, Engine

_LONGEST = 4096
_LOGITS = 2**29  # fp32 logits at once, 2 GiB; more rows are computed in turn


def forward(q, k, v, q_ids, kv_ids, kv_bias):
    """Computes `Engine.forward`."""
    inputs = q, k, v, q_ids, kv_ids, kv_bias
    if max(q.shape[1], k.shape[1]) > _LONGEST:
        return xla_flash.forward(*inputs)
    return _by_rows(_forward, inputs)


def backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
    """Computes `Engine.backward`."""
    inputs = q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad
    if max(q.shape[1], k.shape[1]) > _LONGEST:
        return xla_flash.backward(*inputs)
    return _by_rows(_backward, inputs)


def _by_rows(function, inputs):
    """Returns the function of all rows, as many at once as `_LOGITS` allows."""
    q, k = inputs[:2]
    rows = max(1, _LOGITS // (q.shape[1] * k.shape[1] * q.shape[2]))
    return jax.lax.map(lambda row: function(*row), inputs, batch_size=rows)


def _forward(q, k, v, q_ids, kv_ids, kv_bias):
    logits_NLM = _logits(q, k, q_ids, kv_ids, kv_bias)
    max_NL = jnp.maximum(jnp.max(logits_NLM, axis=-1), LOWEST)
    weights_NLM = jnp.exp(logits_NLM - max_NL[..., None])
    sum_NL = jnp.sum(weights_NLM, axis=-1)
    sum_NL = jnp.where(sum_NL > 0.0, sum_NL, 1.0)  # without keys, 0 / 1
    out = _dot("nlm,mnk->lnk", weights_NLM.astype(v.dtype), v)
    out = out / sum_NL.T[..., None]
    return out.astype(q.dtype), (max_NL + jnp.log(sum_NL)).T


def _backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
    logits_NLM = _logits(q, k, q_ids, kv_ids, kv_bias)
    weights_NLM = jnp.exp(logits_NLM - lse.T[..., None])
    grad_v = _dot("nlm,lnk->mnk", weights_NLM.astype(grad.dtype), grad)
    grad_NLM = _dot("lnk,mnk->nlm", grad, v)
    grad_NLM = weights_NLM * (grad_NLM - delta.T[..., None])
    grad_bias = None
    if kv_bias is not None:
        grad_bias = jnp.sum(grad_NLM, axis=(0, 1)).astype(kv_bias.dtype)
    grad_NLM = (q.shape[-1] ** -0.5 * grad_NLM).astype(q.dtype)
    grad_q = _dot("nlm,mnk->lnk", grad_NLM, k)
    grad_k = _dot("nlm,lnk->mnk", grad_NLM, q)
    grads = grad_q.astype(q.dtype), grad_k.astype(k.dtype), grad_v.astype(v.dtype)
    return *grads, grad_bias


def _logits(q, k, q_ids, kv_ids, kv_bias):
    """Returns logits (N, L, M) of a row in fp32; -inf if a query does not see a key."""
    logits_NLM = q.shape[-1] ** -0.5 * _dot("lnk,mnk->nlm", q, k)
    if kv_bias is not None:
        logits_NLM = logits_NLM + kv_bias.astype(jnp.float32)[None, None, :]
    visible_LM = (q_ids[:, None] == kv_ids[None, :]) & (q_ids > 0)[:, None]
    return jnp.where(visible_LM[None], logits_NLM, -jnp.inf)


def _dot(spec: str, x, y):
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


ENGINE = Engine(forward, backward)

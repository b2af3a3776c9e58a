"""Packed attention and its gradients in float64 NumPy, one segment after the other."""

import numpy as np

from soraxla.ops.engines.engine import LOWEST


def attend(q, k, v, q_ids, kv_ids, bias=None, grad=None):
    """Computes output and logsumexp, and with `grad`, that of the output, the gradients
    of q, k, v and the bias (None without one)."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    given = np.zeros(kv_ids.shape) if bias is None else np.asarray(bias, np.float64)
    scale = q.shape[-1] ** -0.5
    out, lse = np.zeros(q.shape), np.full(q.shape[:3], float(np.float32(LOWEST)))
    grads = [np.zeros(x.shape) for x in (q, k, v, given)]
    for b in range(len(q)):
        for segment in set(q_ids[b]) & set(kv_ids[b]) - {0}:
            at, to = q_ids[b] == segment, kv_ids[b] == segment
            logits = scale * np.einsum("lnk,mnk->nlm", q[b, at], k[b, to])
            logits = logits + given[b, to][None, None, :]
            total = np.logaddexp.reduce(logits, axis=-1)
            weights = np.exp(logits - total[:, :, None])
            lse[b, at] = total.T
            out[b, at] = np.einsum("nlm,mnk->lnk", weights, v[b, to])
            if grad is None:
                continue
            above = np.asarray(grad[b, at], np.float64)
            change = np.einsum("lnk,mnk->nlm", above, v[b, to])
            change -= np.einsum("lnk,lnk->nl", above, out[b, at])[:, :, None]
            change *= weights
            grads[0][b, at] = scale * np.einsum("nlm,mnk->lnk", change, k[b, to])
            grads[1][b, to] = scale * np.einsum("nlm,lnk->mnk", change, q[b, at])
            grads[2][b, to] = np.einsum("nlm,lnk->mnk", weights, above)
            grads[3][b, to] = change.sum(axis=(0, 1))
    if grad is None:
        return out, lse
    return out, lse, *grads[:3], None if bias is None else grads[3]

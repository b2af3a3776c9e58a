"""Packed attention in bf16 on this process's platform, against float64 NumPy; prints
the errors as one line of JSON. For `test_gpu_cudnn.py`."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from soraxla.ops.engines import gpu_cudnn
from tests.ops import exact
from tests.ops.rows import row


def packed(length, *, text):
    """Ids of rows with several, one, no and fifty segments, and of their keys: the
    same, or text of which the fourth segment has none."""
    rows = [[length // 3, length // 4, 17, length // 5], [length], [], [3] * 50]
    ids = np.stack([row(*segments, length=length) for segments in rows])
    if not text:
        return ids, ids
    rows = [[7, 30, 1], [64], [5], [1] * 50]
    return ids, np.stack([row(*segments, length=64) for segments in rows])


def inputs(q_ids, kv_ids, *, k, biased):
    """The arguments of `Engine.forward` in bf16, and the gradient of the output."""
    rng = np.random.default_rng(0)
    tokens, others = (*q_ids.shape, 2, k), (*kv_ids.shape, 2, k)
    q, key, v, grad = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        for shape in (tokens, others, others, tokens)
    )
    bias = rng.normal(size=kv_ids.shape).astype(np.float32) * 3 if biased else None
    return (q, key, v, q_ids, kv_ids, bias), grad


def errors(engine, args, grad):
    """The largest error of each result, as a part of the result's largest value; the
    exact logsumexp and output feed the backward pass."""

    @jax.jit
    def everything(args, out, lse, grad):
        delta = jnp.sum(out.astype(jnp.float32) * grad.astype(jnp.float32), axis=-1)
        return *engine.forward(*args), *engine.backward(*args, lse, delta, grad)

    expected = exact.attend(*args, grad)
    out, lse = jnp.asarray(expected[0], grad.dtype), expected[1].astype(np.float32)
    worst = {}
    for name, x, y in zip(
        ("out", "lse", "grad_q", "grad_k", "grad_v", "grad_bias"),
        everything(args, out, lse, grad),
        expected,
        strict=True,
    ):
        if x is None:
            continue
        x, y = (np.asarray(a, np.float32) for a in (x, y))
        assert np.array_equal(x < -1e29, y < -1e29), name  # queries without keys
        scale = np.max(np.abs(np.where(y < -1e29, 0.0, y)))
        worst[name] = float(np.max(np.abs(x - y)) / scale)
    return worst


CASES = {
    "packed": {"k": 64, "biased": False, "text": False},
    "head_dim_128": {"k": 128, "biased": False, "text": False},
    "biased_text": {"k": 128, "biased": True, "text": True},
}


def case(name):
    settings = dict(CASES[name])
    q_ids, kv_ids = packed(384, text=settings.pop("text"))
    return inputs(q_ids, kv_ids, **settings)


if __name__ == "__main__":
    print(json.dumps({name: errors(gpu_cudnn.ENGINE, *case(name)) for name in CASES}))

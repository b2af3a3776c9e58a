"""Packed attention against attention under a dense mask, forward and backward.

    python -m benchmarks.attention [--tokens 16384] [--segments 8] [--json FILE]

The platform's engine of `soraxla.ops.attention` computes one packed row of segments of
different lengths; `jax.nn.dot_product_attention` computes it with the (tokens, tokens)
mask of the same segments. The dense side needs some 6 GB a head at 16,384 tokens. The
same row as one segment separates the gain of skipping from the gain of never holding
the logits.

Σ(segment length)² over tokens², the share of the logits that count, bounds the gain of
skipping from above.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import (
    check_equal,
    matmul,
    race,
    ratio,
    timed,
    write_report,
)
from soraxla.ops.attention import attention
from soraxla.parallel.compiler import jit


def segment_lengths(tokens: int, segments: int) -> np.ndarray:
    """Returns lengths as 1 : 2 : … : `segments`, shuffled, that fill the row."""
    shares = np.random.default_rng(0).permutation(np.arange(1, segments + 1))
    ends = np.round(np.cumsum(shares) * tokens / shares.sum()).astype(int)
    return np.diff(ends, prepend=0)


def packed(q, k, v, ids):
    return attention(q, k, v, q_segment_ids=ids, kv_segment_ids=ids)


def dense(q, k, v, ids):
    mask = ids[:, None, :, None] == ids[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def with_gradients(run, q, k, v, ids, grad):
    """Returns the output and the gradients of q, k and v."""
    out, back = jax.vjp(lambda q, k, v: run(q, k, v, ids), q, k, v)
    grads = back(grad)
    return dict(zip(("out", "grad_q", "grad_k", "grad_v"), (out, *grads), strict=True))


def main(
    tokens: int, segments: int, heads: int, dtype: str, rounds: int, file: Path | None
):
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (1, tokens, heads, 128)
    q, k, v, grad = (jax.random.normal(key, shape, dtype) for key in keys)
    lengths = segment_lengths(tokens, segments)
    ids = jnp.asarray(np.repeat(np.arange(1, segments + 1), lengths)[None], jnp.int32)

    forward = {"packed": jit(packed), "dense": jit(dense)}
    both = {
        name: jit(partial(with_gradients, run))
        for name, run in (("packed", packed), ("dense", dense))
    }
    contenders = {"matmul": matmul(dtype)}
    for name in forward:
        contenders[f"{name}, forward"] = timed(partial(forward[name], q, k, v, ids))
        contenders[f"{name}, forward and backward"] = timed(
            partial(both[name], q, k, v, ids, grad)
        )
    one = jnp.ones_like(ids)
    contenders["one segment, forward and backward"] = timed(
        partial(both["packed"], q, k, v, one, grad)
    )

    ours, theirs = (
        {n: np.asarray(x, np.float32) for n, x in run(q, k, v, ids, grad).items()}
        for run in both.values()
    )
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    errors = check_equal(ours, theirs, tolerance=tolerance)
    timings = race(contenders, rounds=rounds)
    last = "forward and backward"
    results = {
        "tokens": tokens,
        "segment_lengths": lengths.tolist(),
        "heads": heads,
        "dtype": dtype,
        "share_of_logits": float(np.sum(lengths.astype(float) ** 2) / tokens**2),
        "errors": errors,
        "dense over packed, forward": ratio(
            timings["dense, forward"], timings["packed, forward"]
        ),
        f"dense over packed, {last}": ratio(
            timings[f"dense, {last}"], timings[f"packed, {last}"]
        ),
        f"one segment over packed, {last}": ratio(
            timings[f"one segment, {last}"], timings[f"packed, {last}"]
        ),
    }
    write_report(file, results, timings=timings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the report goes")
    a = parser.parse_args()
    main(a.tokens, a.segments, a.heads, a.dtype, a.rounds, a.json)

"""The GPU engine: lowered anywhere, with the kernels' part played by NumPy, and, where
there is a GPU, run."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.attention import attention
from soraxla.ops.engines import gpu_cudnn
from soraxla.ops.engines.engine import Engine
from tests.ops.gpu_program import case, errors, inputs

ROUNDING = 2.0**-7  # of a bf16 result, and of the operands of its sums


class _Kernels:
    """cuDNN's two kernels as jax documents them; what they leave unwritten is NaN."""

    def __init__(self):
        self.visits = 0  # of segments
        # Another engine to jit, which else remembers another test's kernels.
        self.engine = Engine(*map(partial, gpu_cudnn.ENGINE))

    def forward(self, q, k, v, _, *segments_and_unused, scale, **__):
        def run(q, k, v, *segments):
            out = np.full((*q.shape[:3], v.shape[-1]), np.nan, np.float32)
            shape = (segments[0].size, q.shape[2], q.shape[1])
            lse = np.full(shape, np.nan, np.float32)
            for number, (b, at, to) in enumerate(self._each(*segments)):
                logits = scale * np.einsum("lnk,mnk->nlm", q[b, at], k[b, to])
                total = np.logaddexp.reduce(logits, axis=-1)
                weights = np.exp(logits - total[..., None])
                out[b, at] = np.einsum("nlm,mnk->lnk", weights, v[b, to])
                lse[number, :, : total.shape[1]] = total
            return out, lse

        out = jax.ShapeDtypeStruct((*q.shape[:3], v.shape[-1]), jnp.float32)
        segments = segments_and_unused[:4]
        lse = (segments[0].size, q.shape[2], q.shape[1])
        lse = jax.ShapeDtypeStruct(lse, jnp.float32)
        out, lse = self._call(run, (out, lse), q, k, v, *segments)
        return out.astype(q.dtype), lse

    def backward(self, q, k, v, _, *rest, scale, **__):
        *segments, _, _, lse, out, grad = rest

        def run(q, k, v, lse, out, grad, *segments):
            grads = [np.full(x.shape, np.nan, np.float32) for x in (q, k, v)]
            for number, (b, at, to) in enumerate(self._each(*segments)):
                logits = scale * np.einsum("lnk,mnk->nlm", q[b, at], k[b, to])
                count = logits.shape[1]
                weights = np.exp(logits - lse[number, :, :count, None])
                delta = np.einsum("lnk,lnk->nl", out[b, at], grad[b, at])
                change = np.einsum("lnk,mnk->nlm", grad[b, at], v[b, to])
                change = scale * weights * (change - delta[..., None])
                grads[0][b, at] = np.einsum("nlm,mnk->lnk", change, k[b, to])
                grads[1][b, to] = np.einsum("nlm,lnk->mnk", change, q[b, at])
                grads[2][b, to] = np.einsum("nlm,lnk->mnk", weights, grad[b, at])
            return tuple(grads)

        shapes = tuple(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (q, k, v))
        args = q, k, v, lse, out, grad, *segments
        return [x.astype(q.dtype) for x in self._call(run, shapes, *args)]

    def _call(self, run, shapes, *args):
        def run_in_numpy(*args):
            return run(
                *(
                    np.asarray(x, x.dtype if x.dtype.kind == "i" else np.float32)
                    for x in args
                )
            )

        return jax.pure_callback(run_in_numpy, shapes, *args)

    def _each(self, q_lengths, kv_lengths, q_starts, kv_starts):
        """Row, queries and keys of every segment, through the rows."""
        assert q_starts.shape == (len(q_lengths), q_lengths.shape[1] + 1)
        for b, s in np.ndindex(q_lengths.shape):
            ends = [
                (starts[b, s], lengths[b, s])
                for starts, lengths in ((q_starts, q_lengths), (kv_starts, kv_lengths))
            ]
            assert len({value < 0 for end in ends for value in end}) == 1
            if ends[0][0] >= 0:
                at, to = (slice(start, start + length) for start, length in ends)
                self.visits += 1
                yield b, at, to


@pytest.fixture
def kernels(monkeypatch):
    played = _Kernels()
    for name, kernel in (("fwd", played.forward), ("bwd", played.backward)):
        primitive = type("Primitive", (), {"bind": staticmethod(kernel)})
        name = f"_dot_product_attention_{name}_p_wrapper"
        monkeypatch.setattr(gpu_cudnn.cudnn, name, primitive)
    return played


@pytest.mark.slow
@pytest.mark.parametrize("name", ["biased_text", "packed", "head_dim_128"])
def test_what_is_made_of_the_kernels_is_the_dense_one(name, kernels):
    args, grad = case(name)
    worst = errors(kernels.engine, args, grad)
    assert max(worst.values()) < ROUNDING and worst["lse"] < 1e-5, worst
    q_ids, kv_ids = args[3:5]
    segments = [set(q) & set(kv) - {0} for q, kv in zip(q_ids, kv_ids, strict=True)]
    assert kernels.visits == 2 * sum(map(len, segments))


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["too many segments", "ids descend", "a gap"])
def test_rows_that_the_kernels_do_not_take_are_right_too(reason, kernels):
    ids = {
        "too many segments": np.repeat(np.arange(1, 97), 2)[None],
        "ids descend": np.repeat([[2, 1]], 96, axis=1),
        "a gap": np.repeat([[1, 0, 2]], 64, axis=1),
    }[reason].astype(np.int32)
    worst = errors(kernels.engine, *inputs(ids, ids, k=64, biased=False))
    assert max(worst.values()) < ROUNDING, worst
    assert kernels.visits == 0


def test_a_gpu_program_calls_cudnn(monkeypatch):
    """Forward and backward; numbers of 32 bits and heads of 264 go elsewhere."""
    monkeypatch.setattr("soraxla.ops.attention.ENGINES", {"cpu": gpu_cudnn.ENGINE})

    def calls(dtype, k):
        x = jax.ShapeDtypeStruct((2, 256, 2, k), dtype)
        ids = jax.ShapeDtypeStruct((2, 256), jnp.int32)

        def loss(x, ids):
            out = attention(x, x, x, q_segment_ids=ids, kv_segment_ids=ids)
            return jnp.sum(out.astype(jnp.float32))

        traced = jax.jit(jax.grad(loss)).trace(x, ids)
        return traced.lower(lowering_platforms=("cuda",)).as_text().count("__cudnn$")

    assert calls(jnp.bfloat16, 64) == calls(jnp.float16, 256) == 2
    assert calls(jnp.float32, 64) == calls(jnp.bfloat16, 264) == 0


@pytest.mark.skipif(
    not shutil.which("nvidia-smi")
    or not any(
        map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))
    ),
    reason="needs a GPU and jax's CUDA plugin",
)
def test_on_a_gpu_it_is_the_dense_one():
    """The case runs in another process, because the tests' process keeps to the CPU."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.gpu_program"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    worst = json.loads(done.stdout.splitlines()[-1])
    assert max(max(x.values()) for x in worst.values()) < 2 * ROUNDING, worst

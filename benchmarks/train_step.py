"""A train step of a small Wan against diffusers' WanTransformer3DModel in torch.

    python -m benchmarks.train_step --peer PYTHON [--dtype float32] [--json FILE]

Both sides have the same weights and one clip of 2,560 tokens with 512 text tokens, one
row without padding. Each draws time and noise, corrupts the latents, computes the
gradient, clips it by its global norm, and updates AdamW and a moving average of the
weights. PYTHON has `benchmarks/peers.txt` installed.
"""
# ruff: noqa: E402

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soraxla.core.allocator import keep_freed_pages

keep_freed_pages()  # as `soraxla train` does

import jax
import numpy as np
import optax

from benchmarks import wan
from benchmarks.harness import (
    Contender,
    Peer,
    check_equal,
    matmul,
    race,
    ratio,
    timed,
    write_report,
)
from soraxla.core.types import LatentGrid, PackedBatch
from soraxla.diffusion.process import Purpose, noise
from soraxla.models import dit
from soraxla.models.dit.flops import train_flops
from soraxla.parallel.compiler import jit
from soraxla.training.dit_step import DiTStepConfig, dit_error, dit_step
from soraxla.training.state import create

GRID = LatentGrid(t=5, h=32, w=64)
TIME = np.full((1, 1), 0.6, np.float32)  # at which outputs are compared
FORMS = {"float32": ("fp32",), "bfloat16": ("autocast", "bf16 weights")}
# Relative: of fp32 sums in another order, and of bf16's 8 bits over 8 layers.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


def settings(dtype: str, *, remat: bool) -> DiTStepConfig:
    policy = "full" if remat else "none"
    return DiTStepConfig(model=wan.of_dtype(wan.DIT, dtype, remat=policy))


def mean_error(params: Any, batch: PackedBatch, step: DiTStepConfig) -> jax.Array:
    total, weight = dit_error(params, batch, TIME, cfg=step, purpose=Purpose.NOISE)
    return jax.numpy.asarray(total / weight)


def corrupted(batch: PackedBatch, step: DiTStepConfig) -> dict[str, np.ndarray]:
    """Returns the inputs and targets of `dit_error` at `TIME`, for the peer."""
    eps = noise(
        step.seed,
        batch.visit,
        batch.segment_ids,
        batch.token_index,
        batch.latents.shape[-1],
        purpose=Purpose.NOISE,
    )
    x = (1.0 - TIME) * batch.latents + TIME * eps
    clips = {"x0": batch.latents, "x": x, "target": eps - batch.latents}
    return {
        **{name: wan.to_clip(tokens, GRID) for name, tokens in clips.items()},
        "t": TIME[0],
        "text": np.asarray(batch.text),
    }


def checked(
    params: Any, batch: PackedBatch, step: DiTStepConfig, x: Any
) -> dict[str, Any]:
    """Returns prediction, loss and gradient norm at `TIME`."""

    def run(params, x):
        loss, grads = jax.value_and_grad(lambda p: mean_error(p, batch, step))(params)
        pred = dit.apply(params, step.model, x, TIME, batch)
        return pred, loss, optax.tree.norm(grads)

    pred, loss, norm = jit(run)(params, x)
    return {"pred": wan.to_clip(pred, GRID), "loss": loss, "grad_norm": norm}


def trainer(params: Any, batch: PackedBatch, step: DiTStepConfig) -> Contender:
    """Returns a contender that takes one more step per call; the state is donated."""
    update = jit(functools.partial(dit_step, cfg=step), donate_argnums=0)
    state = create(jax.tree.map(jax.numpy.array, params), step.optim, {})

    def run():
        nonlocal state
        state, metrics = update(state, batch)
        return state, metrics

    return timed(run)


def main(python: str, dtype: str, rounds: int, file: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = wan.write_models(folder)["dit"]
        batch = jax.device_put(wan.one_clip(GRID, seed=0))
        inputs = corrupted(batch, settings(dtype, remat=False))
        np.savez(folder / "inputs.npz", **inputs)
        with Peer(python, "benchmarks.torch_wan", ["train", name]) as peer:
            contenders = {
                "matmul": matmul(dtype),
                "torch matmul": peer.case(f"matmul {dtype}"),
            }
            errors: dict[str, Mapping[str, float]] = {}
            for remat in (False, True):
                step = settings(dtype, remat=remat)
                end = ", remat" if remat else ""
                x = (1.0 - TIME) * batch.latents + TIME * (
                    inputs_to_tokens(inputs["target"]) + batch.latents
                )
                ours = checked(params, batch, step, x)
                for form in FORMS[dtype]:
                    theirs = peer.outputs(f"check {form}{end}", folder / "out.npz")
                    errors[f"{form}{end}"] = check_equal(
                        ours, theirs, tolerance=TOLERANCE[dtype]
                    )
                    contenders[f"torch {form}{end}"] = peer.case(f"{form}{end}")
                contenders[f"soraxla{end}"] = trainer(params, batch, step)
            timings = race(contenders, rounds=rounds)
            tokens = batch.segment_ids.size
            work = train_flops(wan.DIT, [tokens], [wan.TEXT])
            results: dict[str, Any] = {
                "dtype": dtype,
                "tokens": tokens,
                "errors": errors,
                "gflops": work / 1e9,
                "gflops_a_second": {
                    name: work / 1e9 / t.minimum
                    for name, t in timings.items()
                    if "matmul" not in name
                },
            }
            for end in ("", ", remat"):
                for form in FORMS[dtype]:
                    results[f"torch {form}{end} over soraxla{end}"] = ratio(
                        timings[f"torch {form}{end}"], timings[f"soraxla{end}"]
                    )
            write_report(file, results, timings=timings, peer=peer)


def inputs_to_tokens(clip: np.ndarray) -> np.ndarray:
    from soraxla.packing.patchify import patchify

    return np.asarray(patchify(clip.transpose(0, 2, 3, 4, 1), wan.DIT.patch))


if __name__ == "__main__":
    wan.run_race(main, __doc__ or "", FORMS)

"""Sampling steps of a small Wan under guidance, against diffusers' transformer.

    python -m benchmarks.sample_step --peer PYTHON [--dtype float32] [--json FILE]

Both sides take four Euler steps from noise at a guidance of 5, for a clip of 2,560
tokens and an image of 256, with prompts of 512 tokens and the same weights. soraxla
computes the layers that depend only on the prompts once, and both predictions in one
forward pass. Torch runs with both predictions in one batch and, as diffusers' pipeline
does, in turn. PYTHON has `benchmarks/peers.txt` installed.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

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
from soraxla.diffusion.guidance import Guidance, guided
from soraxla.diffusion.process import Process
from soraxla.diffusion.sampler import sample
from soraxla.diffusion.solvers import Euler
from soraxla.diffusion.time_grid import Grid
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.parallel.compiler import jit

GRIDS = {"clip": LatentGrid(t=5, h=32, w=64), "image": LatentGrid(t=1, h=32, w=32)}
STEPS, SCALE = 4, 5.0
FORMS = {"float32": ("fp32",), "bfloat16": ("autocast", "bf16 weights")}
ORDERS = ("one batch", "in turn")
# Relative; guidance multiplies the difference between the two predictions by five.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1}


def sampler(model: DiTConfig) -> Callable[..., jax.Array]:
    """Returns (params, batch, negative, grid) → latents; `batch.latents` is noise."""

    def run(params: PyTree, batch: PackedBatch, negative: PackedBatch, grid: Grid):
        return sample(
            guided(
                partial(dit.denoiser, params, model),
                batch,
                negative,
                guidance=Guidance(cfg_scale=SCALE),
            ),
            batch.latents,
            batch,
            grid,
            process=Process(),
            solver=Euler(),
        )

    return jit(run)


def main(python: str, dtype: str, rounds: int, file: Path | None) -> None:
    model = wan.of_dtype(wan.DIT, dtype)
    batches = {name: wan.one_clip(grid, seed=0) for name, grid in GRIDS.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = wan.write_models(folder)["dit"]
        other = wan.one_clip(GRIDS["image"], seed=1)  # the negative prompt's text
        times = Euler().grid(STEPS, batches["clip"].shift)
        noises = {n: wan.to_clip(b.latents, GRIDS[n]) for n, b in batches.items()}
        inputs: dict[str, Any] = {
            **noises,
            "text": np.concatenate([batches["clip"].text, other.text]),
            "times": np.asarray(times.t, np.float32).reshape(-1),
            "scale": np.float32(SCALE),
        }
        np.savez(folder / "inputs.npz", **inputs)
        with Peer(python, "benchmarks.torch_wan", ["sample", name]) as peer:
            contenders: dict[str, Contender] = {
                "matmul": matmul(dtype),
                "torch matmul": peer.case(f"matmul {dtype}"),
            }
            errors, results = {}, {"dtype": dtype, "steps": STEPS}
            run = sampler(model)
            cases = [f"{form}, {order}" for form in FORMS[dtype] for order in ORDERS]
            for what, batch in batches.items():
                batch = batch._replace(text=batches["clip"].text)
                negative = batch._replace(text=other.text)
                ours = partial(run, params, batch, negative, times)
                out = {"x": wan.to_clip(ours(), GRIDS[what])}
                contenders[f"soraxla {what}"] = timed(ours)
                for case in cases:
                    errors[f"{what}, {case}"] = check_equal(
                        out,
                        peer.outputs(f"{what}, {case}", folder / "out.npz"),
                        tolerance=TOLERANCE[dtype],
                    )
                    contenders[f"torch {what}, {case}"] = peer.case(f"{what}, {case}")
            timings = race(contenders, rounds=rounds)
            results["errors"] = errors
            for what in batches:
                for case in cases:
                    results[f"torch {what}, {case} over soraxla"] = ratio(
                        timings[f"torch {what}, {case}"], timings[f"soraxla {what}"]
                    )
            write_report(file, results, timings=timings, peer=peer)


if __name__ == "__main__":
    wan.run_race(main, __doc__ or "", FORMS)

"""Cost of the input: the loader without a step, and a train step that waits for it.

    python -m benchmarks.input [--json FILE]

The benchmark writes a dataset of random latents in the sizes of `sizes.json` (sides a
quarter, rows of 1,024 tokens) to a temporary folder. "One batch" repeats the step on a
batch in memory. Balanced steps of four rows on one device cost much the same, so the
loader causes the seconds beyond it.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import jax

from benchmarks.harness import matmul, race, ratio, timed, write_report
from benchmarks.packing import STEP
from benchmarks.sizes import published_sizes
from data_pipelines.dataset import open_dataset
from data_pipelines.loader import packed_batches
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.packing.pack import PackConfig
from soraxla.parallel.compiler import jit
from soraxla.training.dit_step import dit_init, dit_step
from tests.data_pipelines.datasets import write_dataset

PACK = PackConfig(row_length=1024, text_length=512, max_segments=32)
ROWS = 4  # to a step
SAMPLES = 1024
STEPS = 3  # to a round


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where the report is written")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    index, model = published_sizes(SAMPLES, shrink=4), STEP.model
    grids = list(zip(*(a.tolist() for a in (index.t, index.h, index.w)), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(
            write_dataset(
                Path(folder) / "dataset",
                grids,
                channels=model.latent_channels,
                text_width=model.text_width,
            )
        )
        batches = functools.partial(
            packed_batches,
            dataset,
            PACK,
            seed=0,
            batch_rows=ROWS,
            shift=functools.partial(time_shift, model.shift),
        )
        unfetched, ahead = iter(batches(prefetch=0)), iter(batches(prefetch=2))
        one = jax.device_put(next(iter(batches(prefetch=0))))
        state = jit(functools.partial(dit_init, STEP))()
        step = jit(functools.partial(dit_step, cfg=STEP))
        contenders = {
            "matmul 2048 bf16": matmul("bfloat16"),
            "loader alone": timed(lambda: [next(unfetched) for _ in range(STEPS)]),
            "one batch": timed(lambda: [step(state, one) for _ in range(STEPS)]),
            "with the loader": timed(
                lambda: [step(state, next(ahead)) for _ in range(STEPS)]
            ),
        }
        timings = race(contenders, rounds=arguments.rounds)
        ahead.close()
    loader, fed = timings["loader alone"], timings["with the loader"]
    results = {
        "loader_tokens_a_second": round(STEPS * ROWS * PACK.row_length / loader.median),
        "with_the_loader_takes": ratio(fed, timings["one batch"]),
    }
    write_report(arguments.json, results, timings=timings)


if __name__ == "__main__":
    main()

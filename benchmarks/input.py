"""Cost of the input: the loader without a step, and a train step that waits for it.

    python -m benchmarks.input [--json FILE] [--before CHECKOUT]

The benchmark writes a dataset of random latents in the sizes of `sizes.json` (sides a
quarter, rows of 1,024 tokens) to a temporary folder. "One batch" repeats the step on a
batch in memory. Balanced steps of four rows on one device cost much the same, so the
loader causes the seconds beyond it.

`--before` measures late storage instead: the loader of this checkout and that of
another commit, while every read of a shard waits 20 ms. It needs a C compiler.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import jax

from benchmarks.checkout import PACK, ROWS, STEPS
from benchmarks.harness import (
    ROOT,
    Contender,
    Peer,
    matmul,
    race,
    ratio,
    timed,
    write_report,
)
from benchmarks.packing import STEP
from benchmarks.sizes import published_sizes
from data_pipelines.dataset import open_dataset
from data_pipelines.loader import packed_batches
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.packing.pack import PackConfig
from soraxla.parallel.compiler import jit
from soraxla.training.dit_step import dit_init, dit_step
from tests.data_pipelines.datasets import write_dataset

SAMPLES = 1024
TRAINED = 3  # steps to a round with a train step
LATENCY = "20"  # milliseconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where the report is written")
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    index, model = published_sizes(SAMPLES, shrink=4), STEP.model
    grids = list(zip(*(a.tolist() for a in (index.t, index.h, index.w)), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(
            Path(folder) / "dataset",
            grids,
            channels=model.latent_channels,
            text_width=model.text_width,
            version=2,  # which older commits read too
        )
        if arguments.before is None:
            train(dataset, arguments.rounds, arguments.json)
        else:
            late_storage(
                dataset, arguments.before.resolve(), arguments.rounds, arguments.json
            )


def train(folder: Path, rounds: int, file: Path | None) -> None:
    """Times the loader, and steps with and without it."""
    batches = functools.partial(
        packed_batches,
        open_dataset(folder),
        PackConfig(**PACK),
        seed=0,
        batch_rows=ROWS,
        shift=functools.partial(time_shift, STEP.model.shift),
    )
    unfetched, ahead = iter(batches(prefetch=0)), iter(batches(prefetch=2))
    one = jax.device_put(next(iter(batches(prefetch=0))))
    state = jit(functools.partial(dit_init, STEP))()
    step = jit(functools.partial(dit_step, cfg=STEP))
    contenders = {
        "matmul 2048 bf16": matmul("bfloat16"),
        "loader alone": timed(lambda: [next(unfetched) for _ in range(TRAINED)]),
        "one batch": timed(lambda: [step(state, one) for _ in range(TRAINED)]),
        "with the loader": timed(
            lambda: [step(state, next(ahead)) for _ in range(TRAINED)]
        ),
    }
    timings = race(contenders, rounds=rounds)
    ahead.close()
    loader, fed = timings["loader alone"], timings["with the loader"]
    results = {
        "loader_tokens_a_second": _rate(TRAINED, loader.median),
        "with_the_loader_takes": ratio(fed, timings["one batch"]),
    }
    write_report(file, results, timings=timings)


def late_storage(folder: Path, before: Path, rounds: int, file: Path | None) -> None:
    """Times the loaders of two commits while reads are late, and while they are not."""
    library = folder.parent / "slow_reads.so"
    source = ROOT / "benchmarks" / "slow_reads.c"
    build = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2"]
    subprocess.run([*build, "-o", str(library), str(source), "-ldl"], check=True)
    late = {"LD_PRELOAD": str(library), "SLOW_READS_MS": LATENCY}
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for where, variables in (("late", late), ("local", {})):
            for name, root in (("before", before), ("after", ROOT)):
                peer = Peer(
                    sys.executable,
                    "benchmarks.checkout",
                    ["loader", str(folder)],
                    root=root,
                    variables=variables,
                )
                stack.enter_context(peer)
                contenders[f"{where}, {name}"] = peer.case("loader")
        timings = race(contenders, rounds=rounds)
    results = {
        "before": _commit(before),
        "latency_ms": int(LATENCY),
        "tokens_a_second": {n: _rate(STEPS, t.median) for n, t in timings.items()},
        "speedup": {
            where: ratio(timings[f"{where}, before"], timings[f"{where}, after"])
            for where in ("late", "local")
        },
    }
    write_report(file, results, timings=timings)


def _rate(steps: int, seconds: float) -> int:
    return round(steps * ROWS * PACK["row_length"] / seconds)


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()

"""Packed rows against padded batches, on the sizes of `sizes.json`.

    python -m benchmarks.packing [--json FILE]

The first part measures the schedule at full size: the fill of rows, the balance over 64
devices, and the speed of scheduling. The second part measures the samples per second of
a bf16 train step of a small transformer, with sides and rows that fit a CPU (4,096
tokens a step), for

- packed: the rows of the schedule;
- longest of n: batches of n clips, padded to the longest of them (a row holds about 4);
- 12 buckets: batches of one bucket, padded to its longest; a twelfth of all samples in
  each;
- exact: batches of one exact length, which pad nothing and compile once a length.

The last three need any number of shapes. Their seconds per token depend only on the
length, so six lengths are measured in full batches and the others are interpolated;
padding is counted on all samples. Rates are those of the fastest round.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Contender, Timing, matmul, race, timed, write_report
from benchmarks.sizes import published_sizes, tokens_of
from soraxla.models.dit.config import dit_config
from soraxla.packing.bin_packing import fill, imbalance
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.packing.schedule import schedule_steps, schedule_window, window_visits
from soraxla.parallel.compiler import jit
from soraxla.training.dit_step import DiTStepConfig, dit_init, dit_step

STEP = DiTStepConfig(model=dit_config("xs", layers=4))
SHRINK = 2
PACK = PackConfig(row_length=4096, text_length=512, max_segments=32)
ROWS = 4  # of the schedule that are timed: a step of one device, as costly as others
LENGTHS = (64, 256, 768, 1536, 2560, 4096)
CLIPS, BUCKETS, STEPS = (4, 8, 16), 12, 1000


def scheduling(windows: int = 40) -> dict[str, Any]:
    """Returns fill, imbalance and speed of the schedule at full size."""
    index, results = published_sizes(), {}
    for length in (16384, 32768, 65536):
        config = PackConfig(
            row_length=length, text_length=length // 8, max_segments=128
        )
        visits = window_visits(index, config)
        start = time.process_time()
        rows = [
            row
            for window in range(windows)
            for row in schedule_window(index, config, seed=0, window=window)
        ]
        seconds = time.process_time() - start
        schedule = schedule_steps(index, config, seed=0, batch_rows=64)
        steps = [step for _, step in islice(schedule, 64)]
        results[f"rows of {length}"] = {
            "fill": round(fill(rows, config), 4),
            "worst_device_of_64": round(imbalance(steps, 64), 3),
            "draws_a_cpu_second": round(windows * visits / seconds),
            "draws_a_window": visits,
        }
    return results


def train_step(
    rows: Sequence[Sequence[tuple[int, int]]], config: PackConfig
) -> Callable:
    """Returns a step on rows of (tokens, text tokens); the state is not kept."""
    model, rng = STEP.model, np.random.default_rng(0)

    def segment(tokens: int, text: int) -> Segment:
        return Segment(
            tokens=rng.normal(size=(tokens, model.patch_dim)).astype(np.float32),
            positions=rng.integers(0, 16, (tokens, 3)).astype(np.float32),
            text=rng.normal(size=(text, model.text_width)).astype(np.float32),
            visit=int(rng.integers(2**31)),
            shift=1.0,
        )

    batch = jax.device_put(pack([[segment(*s) for s in row] for row in rows], config))
    state, step = _compiled()
    return lambda: step(state, batch)


@functools.cache
def _compiled() -> tuple[Any, Any]:
    init = jit(functools.partial(dit_init, STEP))
    return init(), jit(functools.partial(dit_step, cfg=STEP))


def contenders(
    scheduled: Sequence[Any], captions: np.ndarray
) -> Iterator[tuple[str, Contender]]:
    """Yields the schedule's first rows, and full batches of clips of each length."""
    for number, row in enumerate(scheduled[:ROWS]):
        yield f"packed {number}", timed(train_step([row], PACK))
    text = round(float(captions.mean()))
    for length in LENGTHS:
        config = PackConfig(
            row_length=length, text_length=int(captions.max()), max_segments=1
        )
        rows = [[(length, text)]] * (PACK.row_length // length)
        yield f"length {length}", timed(train_step(rows, config))


def throughput(rounds: int) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Returns samples a second of each kind of batch, steady and over 1,000 steps."""
    index = published_sizes(shrink=SHRINK)
    tokens = tokens_of(index)
    steps = schedule_steps(index, PACK, seed=0, batch_rows=ROWS)
    scheduled = [
        [(visit.tokens, visit.text_tokens) for visit in row]
        for _, step in islice(steps, 64)
        for row in step
    ]
    timings = race(
        {
            "matmul 2048 bf16": matmul("bfloat16"),
            **dict(contenders(scheduled, index.text_length)),
        },
        rounds=rounds,
    )
    singles = [timings[f"length {length}"] for length in LENGTHS]
    a_token = [
        t.minimum / (PACK.row_length // n * n)
        for n, t in zip(LENGTHS, singles, strict=True)
    ]
    compiling = float(np.median([t.first - t.median for t in singles]))

    padded = {f"longest of {n}": tokens.reshape(-1, n).max(axis=1) for n in CLIPS}
    edges = np.quantile(tokens, np.arange(1, BUCKETS + 1) / BUCKETS, method="higher")
    padded[f"{BUCKETS} buckets"] = edges[np.searchsorted(edges, tokens)]
    padded["exact"] = tokens
    packed = [timings[f"packed {number}"].minimum for number in range(ROWS)]
    real = [sum(n for n, _ in row) for row in scheduled]
    # Seconds a sample, places for tokens a sample, shapes to compile.
    batchings = {
        "packed": (
            sum(packed) / sum(real[:ROWS]) * tokens.mean(),
            PACK.row_length / np.mean(real) * tokens.mean(),
            1,
        )
    }
    for name, lengths in padded.items():
        seconds = np.interp(lengths, LENGTHS, a_token) * lengths
        batchings[name] = (seconds.mean(), lengths.mean(), len(np.unique(lengths)))
    samples = STEPS * np.mean([len(row) for row in scheduled])
    return timings, {
        name: {
            "samples_a_second": round(1 / seconds, 3),
            "packed_is_faster": round(seconds / batchings["packed"][0], 3),
            "fill": round(float(tokens.mean() / length), 3),
            "shapes": shapes,
            f"samples_a_second_over_{STEPS}_steps": round(
                samples / (samples * seconds + shapes * compiling), 3
            ),
        }
        for name, (seconds, length, shapes) in batchings.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where the report is written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--schedule-only", action="store_true", help="no train steps")
    arguments = parser.parse_args()
    results: dict[str, Any] = scheduling()
    timings: dict[str, Timing] = {}
    if not arguments.schedule_only:
        timings, rates = throughput(arguments.rounds)
        results.update(rates)
    write_report(arguments.json, results, timings=timings)


if __name__ == "__main__":
    main()

"""Seconds that a checkpoint delays training, and seconds until it is on disk.

    python -m benchmarks.checkpoint [--size xs] [--folder FOLDER] [--json FILE]

`FOLDER` is on the disk to measure; the default is the system's temporary folder. Every
round saves into a new folder and waits until its checkpoint is whole.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.harness import Timing, race, write_report
from soraxla.models.dit.config import dit_config
from soraxla.parallel.compiler import jit
from soraxla.training.dit_step import DiTStepConfig, dit_init
from soraxla.training.saving import Checkpoints


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="xs", help="size of the transformer")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path, help="where the report is written")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cfg = DiTStepConfig(model=dit_config(arguments.size))
    state = jit(functools.partial(dit_init, cfg))()
    jax.block_until_ready(state)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    on_disk: list[float] = []

    def save() -> float:
        """Returns the seconds until training goes on; notes those until it is done."""
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            checkpoints = Checkpoints(Path(folder))
            start = time.perf_counter()
            checkpoints.save(1, state, {"window": 0, "row": 0, "step": 1})
            blocked = time.perf_counter() - start
            checkpoints.close()
            on_disk.append(time.perf_counter() - start)
            return blocked

    timings = race({"blocked": save}, rounds=arguments.rounds)
    timings["until on disk"] = Timing(first=on_disk[0], rounds=tuple(on_disk[1:]))
    results = {"state_mib": round(size / 2**20, 1)}
    write_report(arguments.json, results, timings=timings)


if __name__ == "__main__":
    main()

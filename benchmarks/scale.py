"""The start of training on a very large dataset: time, memory and the first batch.

    python -m benchmarks.scale [--rows 100000000] [--json FILE]

The dataset is simulated: an index of so many rows, whose shards are links to one file
of records in the sizes of `sizes.json` (sides a quarter). A fresh process opens it,
checks it, makes the schedule and reads a batch of four rows of 1,024 tokens. The
peak of memory is the process's, with everything that it imports.
"""

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.checkout import PACK, ROWS
from benchmarks.harness import ROOT, write_report
from benchmarks.packing import STEP
from benchmarks.sizes import published_sizes
from data_pipelines import records
from data_pipelines.dataset import open_dataset
from data_pipelines.loader import packed_batches
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.packing.pack import PackConfig
from tests.data_pipelines.datasets import write_dataset

SAMPLES = 2048  # records of the shard that is linked
GROUP = 1 << 20  # rows of a row group


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--json", type=Path, help="where the report is written")
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.opened is not None:
        print(json.dumps(first_batch(arguments.opened)))
        return
    with tempfile.TemporaryDirectory() as folder:
        dataset = simulate(Path(folder) / "dataset", arguments.rows)
        command = [sys.executable, "-m", "benchmarks.scale", "--opened", str(dataset)]
        done = subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        index = (dataset / records.INDEX).stat().st_size
    results = {"rows": arguments.rows, "index_bytes": index}
    write_report(arguments.json, results | json.loads(done.stdout), timings={})


def simulate(folder: Path, rows: int) -> Path:
    """Writes a dataset of one shard, links others to it, and repeats its index."""
    sizes = published_sizes(SAMPLES, shrink=4)
    grids = list(zip(*(a.tolist() for a in (sizes.t, sizes.h, sizes.w)), strict=True))
    write_dataset(
        folder,
        grids,
        channels=STEP.model.latent_channels,
        text_width=STEP.model.text_width,
        shards=1,
    )
    file = folder / records.INDEX
    one = pq.read_table(file)
    group = pa.concat_tables([one] * (GROUP // SAMPLES)).combine_chunks()
    place = group.schema.get_field_index("shard")
    with pq.ParquetWriter(file, records.INDEX_SCHEMA) as writer:
        for first in range(0, rows, GROUP):
            shard = pa.array(np.arange(first, first + GROUP) // SAMPLES, pa.int32())
            part = group.set_column(place, "shard", shard)
            writer.write_table(part.slice(0, min(GROUP, rows - first)))
    for shard in range(1, -(-rows // SAMPLES)):
        (folder / records.shard_name(shard)).symlink_to(records.shard_name(0))
    card = json.loads((folder / records.CARD).read_text())
    records.write_json(folder / records.CARD, card | {"samples": rows})
    return folder


def first_batch(folder: Path) -> dict[str, float]:
    """Opens a dataset and reads a batch; returns seconds and the peak of memory."""
    start, used = time.perf_counter(), time.process_time()
    dataset = open_dataset(folder)
    opened, opening = time.perf_counter(), time.process_time()
    batches = packed_batches(
        dataset,
        PackConfig(**PACK),
        seed=0,
        batch_rows=ROWS,
        shift=functools.partial(time_shift, STEP.model.shift),
    )
    iterator = iter(batches)
    batch = next(iterator)
    read, reading = time.perf_counter(), time.process_time()
    iterator.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {
        "open_s": round(opened - start, 2),
        "open_cpu_s": round(opening - used, 2),
        "first_batch_s": round(read - opened, 2),
        "first_batch_cpu_s": round(reading - opening, 2),
        "peak_gib": round(peak / 2**30, 2),
        "tokens": int((np.asarray(batch.segment_ids) > 0).sum()),
    }


if __name__ == "__main__":
    main()

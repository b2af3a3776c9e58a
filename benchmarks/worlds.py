"""Speed of the worlds, size of their clips, and the pictures of docs/worlds.md.

    python -m benchmarks.worlds [--sheets docs]

Seconds are CPU time of this process, on which other processes have little effect.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.worlds import WORLDS
from data_pipelines.worlds.builder import FEATURES, example
from soraxla.media.contact_sheet import SheetRow, contact_sheet

CLIPS = 60
SHOWN = {
    "occlusion": (10, 2, 8, 21),
    "physics": (3, 14, 4, 12),
    "marks": (1, 5, 9, 25),
    "voxel": (211, 204, 205, 21),
    "effects": (0, 1, 4, 11),
}


def measure(world: str) -> str:
    """Returns a row of the table in docs/worlds.md."""
    simulate = WORLDS[world]
    simulate(0, width=64, height=64, frames=33, fps=12.0)
    start = time.process_time()
    for seed in range(CLIPS):
        simulate(seed, width=64, height=64, frames=33, fps=12.0)
    frames = CLIPS * 33 / (time.process_time() - start)
    features: Any = tfds.features.FeaturesDict(FEATURES)
    serializer = ExampleSerializer(features.get_serialized_info())
    sizes, start = [], time.process_time()
    for seed in range(CLIPS):
        record = serializer.get_tf_example(
            features.encode_example(example(world, seed))
        )
        sizes.append(len(record.SerializeToString(deterministic=True)))
    clips = CLIPS / (time.process_time() - start)
    return f"| `{world}` | {frames:.0f} | {clips:.0f} | {np.mean(sizes) / 1024:.0f} |"


def sheet(world: str, file: Path) -> None:
    """Writes two rows of two clips, five frames of each."""
    clips = [
        WORLDS[world](seed, width=64, height=64, frames=33, fps=12.0)
        for seed in SHOWN.get(world, range(4))
    ]
    rows = [
        SheetRow(caption=f"{a.caption}  |  {b.caption}", clips=[a.video, b.video])
        for a, b in (clips[:2], clips[2:])
    ]
    contact_sheet(rows, frames=5, height=96).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheets", type=Path, help="write pictures into this folder")
    args = parser.parse_args()
    print("| world | frames/s at 64 x 64 | clips/s, stored | KiB a clip |")
    print("|---|---|---|---|")
    for world in WORLDS:
        print(measure(world), flush=True)
        if args.sheets:
            sheet(world, args.sheets / f"world_{world}.png")


if __name__ == "__main__":
    main()

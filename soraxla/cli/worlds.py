"""`soraxla worlds`: clips of simulated worlds, as a TFDS dataset."""

import argparse
import os
from pathlib import Path

from soraxla.cli.following import say_next


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--world",
        default="mixed",
        metavar="NAME",
        help="occlusion, physics, marks, voxel, effects; flat: one of the first three "
        "for each clip; mixed: of the first four (default: %(default)s)",
    )
    parser.add_argument(
        "--clips",
        type=int,
        default=10_000,
        help="number of clips (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder of TFDS datasets; this one is soraxla_worlds/NAME in it",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="another seed gives other clips (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of clips of one frame (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        help="processes; their number does not change the bytes (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    from data_pipelines.worlds.builder import build

    folder = build(
        args.world,
        args.out,
        clips=args.clips,
        seed=args.seed,
        pictures=args.pictures,
        workers=args.workers,
    )
    print(f"{folder}: {args.clips} clips")
    source = f"tfds:soraxla_worlds/{args.world}"
    words = ("--source", source, "--data-dir", args.out, "--out", "DATASET")
    say_next("soraxla", "prepare", *words)

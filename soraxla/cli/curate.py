"""`soraxla curate`: films in, a table of clips with scores and reasons out."""

import argparse
from pathlib import Path

from soraxla.cli.following import say_next


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        type=Path,
        help="folder of films and pictures; without it, the clips of --out are "
        "filtered again from their scores",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of clips.parquet and report.html"
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="TOML, [stage] score = {min = 1, max = 2}, in place of defaults",
    )
    parser.add_argument(
        "--list-stages",
        action="store_true",
        help="print the stages with their scores, thresholds and parameters",
    )
    parser.add_argument(
        "--eval-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the films put aside for evaluation (default: %(default)s)",
    )
    parser.add_argument(
        "--aesthetic",
        type=Path,
        metavar="FOLDER",
        help="folder of clip/, CLIP's weights, and head.safetensors, a linear head; "
        "without it, the score is absent",
    )
    parser.add_argument(
        "--safety",
        type=Path,
        metavar="FILE",
        help="opennsfw's ONNX file; without it, the score is absent",
    )
    parser.add_argument(
        "--require-safety",
        action="store_true",
        help="drop clips without a safety score",
    )


def run(args: argparse.Namespace) -> None:
    from soraxla.tools.curate import curate_folder, filter_again, stage_list

    if args.list_stages:
        print(stage_list())
        return
    if args.out is None:
        from soraxla.core.errors import UserError

        raise UserError("--out is missing; name the folder of the clips")
    keep = {
        "thresholds": args.thresholds,
        "eval_share": args.eval_share,
        "require_safety": args.require_safety,
    }
    if args.source is None:
        rows = filter_again(args.out, **keep)
    else:
        rows = curate_folder(
            args.source,
            args.out,
            aesthetic=args.aesthetic,
            safety=args.safety,
            **keep,
        )
    kept = sum(row["kept"] for row in rows)
    print(f"{args.out}: {kept} of {len(rows)} clips are kept")
    print(f"{args.out / 'report.html'} shows what was dropped and why")
    source = args.out / "clips.parquet"
    say_next("soraxla", "prepare", "--source", source, "--out", "DATASET")

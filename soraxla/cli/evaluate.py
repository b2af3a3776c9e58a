"""`soraxla evaluate`: measures sets of clips, compares runs, and repeats them."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soraxla.cli.following import say_next
from soraxla.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from soraxla.evals.metrics.metric import Metric

_METRICS = ("psnr", "ssim", "flicker", "frame_change", "frechet", "mmd", "cmmd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    run = parts.add_parser("run", help="measure a folder of clips")
    run.add_argument("--generated", type=Path, required=True, help="folder of clips")
    run.add_argument(
        "--reference",
        type=Path,
        help="folder of real clips; metrics of pairs match them by name",
    )
    run.add_argument(
        "--metrics",
        required=True,
        metavar="NAME,…",
        help=f"of {', '.join(_METRICS)}",
    )
    run.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="NAME:FOLDER",
        help="extractor and its weights for frechet, mmd and cmmd, such as "
        "clip:weights/clip-vit-base-patch32; repeat it for several",
    )
    _add_out(run)
    compare = parts.add_parser("compare", help="compare runs, clip by clip")
    compare.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of `run`"
    )
    rerun = parts.add_parser("rerun", help="repeat a run and get the same digits")
    rerun.add_argument("manifest", type=Path, help="manifest.json of the run")
    _add_out(rerun)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="new folder, for results.json, manifest.json, rows.npz and report.html",
    )


def run(args: argparse.Namespace) -> None:
    if args.part == "compare":
        _compare(args.runs)
    elif args.part == "rerun":
        _rerun(args.manifest, args.out)
    else:
        asked = {
            "generated": str(args.generated),
            "reference": args.reference and str(args.reference),
            "metrics": args.metrics.split(","),
            "features": args.features,
        }
        _measure(asked, args.out)


def _measure(asked: "Mapping[str, Any]", out: Path) -> None:
    """Measures and writes the folder."""
    from tqdm import tqdm

    from soraxla.evals.evaluation import FORMAT, evaluate, results, write_rows
    from soraxla.evals.provenance import provenance
    from soraxla.evals.report import page
    from soraxla.evals.worldbench.record import check_new
    from soraxla.files.atomic_folder import atomic_folder

    check_new(out)
    with tqdm(unit="clip") as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        evaluation = evaluate(
            Path(asked["generated"]),
            asked["reference"] and Path(asked["reference"]),
            metrics=asked["metrics"],
            features=asked["features"],
            told=told,
        )
    manifest = {
        "format": FORMAT,
        **asked,
        "sets": {kind: dict(each) for kind, each in evaluation.sets.items()},
        "extractors": dict(evaluation.extractors),
        **provenance(),
    }
    with atomic_folder(out) as partial:
        for name, content in (
            ("results.json", results(evaluation)),
            ("manifest.json", manifest),
        ):
            (partial / name).write_text(json.dumps(content, indent=2) + "\n")
        write_rows(partial / "rows.npz", evaluation)
        title = f"Evaluation of {Path(asked['generated']).name}"
        (partial / "report.html").write_text(page(title, evaluation), encoding="utf-8")
    for note in evaluation.notes:
        print(f"note: {note}")
    _print(evaluation.values)
    print(out / "report.html")
    say_next("soraxla", "evaluate", "compare", out, "OTHER")


def _rerun(path: Path, out: Path) -> None:
    from soraxla.evals.clip_sets import open_set, readable
    from soraxla.evals.evaluation import FORMAT
    from soraxla.evals.features import load_features

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        asked = {k: found[k] for k in ("generated", "reference", "metrics", "features")}
        sets, extractors = found["sets"], found["extractors"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: is no manifest of `soraxla evaluate run`; name a manifest.json"
        ) from None
    if found["format"] != FORMAT:
        raise UserError(
            f"{path}: has format {found['format']}, expected {FORMAT}: run it with the "
            "soraxla that wrote it"
        )
    for kind, was in sets.items():
        clips, _ = readable(open_set(Path(was["folder"])))
        if clips.sha256 != was["sha256"]:
            raise UserError(
                f"{was['folder']}: the {kind} clips have changed since the run, "
                "expected the same bytes; restore them, or measure them with run"
            )
    for spec in asked["features"]:
        extractor = load_features(spec)
        if extractors.get(extractor.name) != extractor.sha256:
            raise UserError(
                f"{spec}: the weights have changed since the run, expected SHA-256 "
                f"{extractors.get(extractor.name)}; restore them"
            )
    _measure(asked, out)


def _compare(folders: list[Path]) -> None:
    from soraxla.evals.evaluation import compare, read_run

    if len(folders) < 2:
        raise UserError("compare needs at least two runs; name their folders")
    first, *others = ((folder, read_run(folder)) for folder in folders)
    for folder, found in others:
        print(f"{folder} − {first[0]}")
        for name, value in compare(first[1], found).items():
            apart = value.low > 0 or value.high < 0
            print(_line(name, value) + ("" if apart else "  not told apart"))


def _print(values: "Mapping[str, Metric]") -> None:
    for name, value in values.items():
        print(_line(name, value))


def _line(name: str, value: "Metric") -> str:
    return (
        f"{name:<20} {value.value:>10.4g}  95 % {value.low:.4g} … {value.high:.4g}  "
        f"{value.n} clips"
    )

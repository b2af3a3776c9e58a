"""`soraxla evaluate`: measures sets of clips, compares runs, and repeats them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soraxla.cli import group
from soraxla.cli.following import say_next
from soraxla.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from soraxla.evals.metrics.metric import Metric

_METRICS = (
    *("psnr", "ssim", "flicker", "frame_change", "join_ratio", "frechet", "mmd"),
    *("cmmd", "jmmd", "consistency", "drift"),
    *("clip_score", "clip_best_frame", "clip_rank"),
    *("perceptual", "motion", "dynamic_degree"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    run = parts.add_parser("run", help="measure clips, a checkpoint or a VAE")
    _add_sets(run)
    run.add_argument(
        "--metrics",
        required=True,
        metavar="NAME,…",
        help=f"of {', '.join(_METRICS)}; join_ratio@16+32 names the first frames after "
        "joins",
    )
    run.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="NAME:FOLDER",
        help="network and its weights for metrics of features, such as "
        "clip:weights/clip-vit-base-patch32; repeat it for several",
    )
    _add_out(run)
    group.add_arguments(run)
    compare = parts.add_parser("compare", help="compare runs, clip by clip")
    compare.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of `run`"
    )
    vbench = parts.add_parser(
        "vbench", help="copy clips to the names that VBench's own scripts expect"
    )
    vbench.add_argument(
        "--generated", type=Path, required=True, help="folder of .mp4 and their prompts"
    )
    vbench.add_argument("--out", type=Path, required=True, help="new folder")
    rerun = parts.add_parser("rerun", help="repeat a run and get the same digits")
    rerun.add_argument("manifest", type=Path, help="manifest.json of the run")
    _add_out(rerun)
    group.add_arguments(rerun)


def _add_sets(run: argparse.ArgumentParser) -> None:
    measured = run.add_mutually_exclusive_group(required=True)
    measured.add_argument("--generated", type=Path, help="folder of clips")
    measured.add_argument(
        "--checkpoint",
        help="model that generates the clips, into the folder OUT_clips",
    )
    measured.add_argument(
        "--vae", type=Path, help="VAE whose reconstructions of --data are measured"
    )
    run.add_argument(
        "--reference",
        type=Path,
        help="folder of real clips; metrics of pairs match them by name",
    )
    run.add_argument(
        "--prompts", type=Path, help="of --checkpoint: a text file, one prompt a line"
    )
    run.add_argument(
        "--data",
        type=Path,
        help="of --checkpoint: a prepared dataset, whose clips are the reference; of "
        "--vae: a folder of media",
    )
    run.add_argument(
        "--clips",
        type=int,
        default=64,
        help="clips of a prepared dataset to imitate (default: %(default)s)",
    )
    run.add_argument(
        "--seed", type=int, default=0, help="of --checkpoint (default: %(default)s)"
    )


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
    elif args.part == "vbench":
        from soraxla.evals.vbench import export_vbench

        print(f"{len(export_vbench(args.generated, args.out))} clips in {args.out}")
    elif args.part == "rerun":
        group.join_group(args)
        _rerun(args.manifest, args.out)
    else:
        group.join_group(args)
        _measure(_asked(args), args.out)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the sets and metrics to measure; generates the clips of a checkpoint.

    Raises:
        UserError: options that do not go together, or clips that cannot be generated.
    """
    generated, reference = args.generated, args.reference
    if args.checkpoint is not None:
        if (args.prompts is None) == (args.data is None):
            raise UserError("--checkpoint needs either --prompts or --data")
        generated, made = _generate(args)
        reference = reference or made
    elif args.prompts is not None:
        raise UserError("--prompts needs --checkpoint, which generates their clips")
    elif args.vae is not None:
        if args.data is None or reference is not None:
            raise UserError("--vae needs --data, and is measured against it")
        generated = args.data
    elif args.data is not None:
        raise UserError("--data needs --checkpoint or --vae")
    return {
        "generated": str(generated),
        "reference": reference and str(reference),
        "metrics": args.metrics.split(","),
        "features": args.features,
        "vae": args.vae and str(args.vae),
    }


def _generate(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """Returns the folders of generated clips and of their references, if any."""
    from tqdm import tqdm

    from data_pipelines.dataset import open_dataset
    from soraxla.evals.generation_set import (
        generate_set,
        of_dataset,
        of_prompts,
        write_references,
    )
    from soraxla.evals.worldbench.record import check_new
    from soraxla.parallel.multihost import is_main

    check_new(args.out)
    dataset = None
    if args.prompts is not None:
        wanted = of_prompts(args.checkpoint, args.prompts)
    else:
        dataset = open_dataset(args.data)
        wanted = of_dataset(dataset, args.clips)
    folder = args.out.with_name(args.out.name + "_clips")
    with tqdm(unit="clip", desc="generating", disable=not is_main() or None) as bar:
        generate_set(
            args.checkpoint, wanted, folder, seed=args.seed, told=_shown_by(bar)
        )
    reference = None
    if dataset is not None:
        reference = folder / "reference"
        write_references(dataset, wanted, reference)
    return folder / "generated", reference


def _shown_by(bar: Any) -> "Callable[[int, int], None]":
    def told(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return told


def _measure(
    asked: "Mapping[str, Any]", out: Path, manifest: "Mapping[str, Any] | None" = None
) -> None:
    """Measures and writes the folder; a repeated run has a manifest."""
    from tqdm import tqdm

    from soraxla.evals.evaluation import evaluate
    from soraxla.evals.run_folder import save_run
    from soraxla.evals.worldbench.record import check_new
    from soraxla.parallel.multihost import is_main

    check_new(out)
    places = {k: asked[k] and Path(asked[k]) for k in ("reference", "vae")}
    with tqdm(unit="clip", disable=not is_main() or None) as bar:
        evaluation = evaluate(
            Path(asked["generated"]),
            **places,
            metrics=asked["metrics"],
            features=asked["features"],
            unchanged=manifest,
            told=_shown_by(bar),
        )
    if not is_main():
        return
    save_run(evaluation, out)
    for note in evaluation.notes:
        print(f"note: {note}")
    for name, value in evaluation.values.items():
        print(_line(name, value))
    print(out / "report.html")
    say_next("soraxla", "evaluate", "compare", out, "OTHER")


def _rerun(path: Path, out: Path) -> None:
    from soraxla.evals.run_folder import read_manifest

    manifest = read_manifest(path)
    _measure(manifest, out, manifest)


def _compare(folders: list[Path]) -> None:
    from soraxla.evals.comparison import compare
    from soraxla.evals.run_folder import read_run

    if len(folders) < 2:
        raise UserError("compare needs at least two runs; name their folders")
    first, *others = ((folder, read_run(folder)) for folder in folders)
    for folder, found in others:
        print(f"{folder} − {first[0]}")
        for name, value in compare(first[1], found).items():
            apart = value.low > 0 or value.high < 0
            print(_line(name, value) + ("" if apart else "  not told apart"))


def _line(name: str, value: "Metric") -> str:
    return (
        f"{name:<20} {value.value:>10.4g}  95 % {value.low:.4g} … {value.high:.4g}  "
        f"{value.n} clips"
    )

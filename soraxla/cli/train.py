"""`soraxla train`: one loop for VAE, diffusion transformer and captioner."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from soraxla.cli import group
from soraxla.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME[:ARGUMENT]",
        help="preset, such as dit:xs, or a Python file, such as mine.py:xs",
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="FOLDER[=WEIGHT]",
        help="a dataset of `soraxla prepare`, or several, of one VAE and text encoder "
        "(repeatable): each has a share of the visits in proportion to its weight, 1 "
        "without one; for a VAE, a folder of media; for a captioner, the folder views "
        "of `soraxla caption train`; synthetic:TOKENS trains on random clips of so "
        "many tokens, to measure speed",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        help="training folder; an existing one is continued; --dry-run needs none",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="DIR",
        help="fine-tune this model: a VAE's folder or, for a transformer, what "
        "`soraxla import`, `export` or `train` wrote",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting, such as loop.steps=1000 (repeatable); "
        "docs/configuration.md lists all",
    )
    parser.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="give a training that goes on another learning rate, warm-up, decay, "
        "weight decay or clip_norm, such as step.optim.learning_rate=1e-5; train.json "
        "records it (repeatable)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print settings, parameters, mesh, data, work of a step and memory; stop",
    )

    group.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from soraxla.core.config import parted

    workdir: Path | None = args.workdir
    if workdir is None and not args.dry_run:
        raise UserError("--workdir is missing; name the folder to train in")
    config, data = configured(args.config, args.set), weighted(args.data)
    if workdir is not None and workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file, expected a folder")
    group.join_group(args)

    # Imported last: the processes of a group join before JAX is asked for devices.
    from soraxla.training.run import dry_run, run_training

    if workdir is None or args.dry_run:
        if args.change:
            raise UserError("--change: needs a training that goes on, not --dry-run")
        print("\n".join(dry_run(config, data=data, init=args.init)))
        return
    finish(
        run_training(
            config,
            data=data,
            workdir=workdir,
            init=args.init,
            change=dict(map(parted, args.change)),
            interrupts=True,
        )
    )


def weighted(places: list[str]) -> dict[Path, float]:
    """Returns the folders of FOLDER[=WEIGHT] with their weights.

    A folder whose name ends like a weight is one that exists.

    Raises:
        UserError: a folder is named twice.
    """
    found: dict[Path, float] = {}
    for text in places:
        folder, _, number = text.rpartition("=")
        weight = 1.0
        if folder and not Path(text).exists():
            with contextlib.suppress(ValueError):
                weight, text = float(number), folder
        if Path(text) in found:
            raise UserError(f"--data {text}: is named twice; give it one weight")
        found[Path(text)] = weight
    return found


def finish(run: Any) -> None:
    """Raises FloatingPointError if many steps of a training had no finite gradient."""
    if 10 * run.skipped > run.step:
        raise FloatingPointError(
            f"{run.skipped} of {run.step} steps had no finite gradient; lower the "
            "rates in step.optim and begin again in another --workdir"
        )


def configured(spec: str, assignments: list[str]) -> dict[str, Any]:
    """Returns the configuration of `--config`, with the settings of `--set`.

    Raises:
        UserError: see `load_preset` and `set_from_text`.
    """
    from soraxla.core.config import set_from_text
    from soraxla.training.presets import load_preset, training_class

    config = load_preset(spec)
    cls = training_class(config, spec)
    for assignment in assignments:
        set_from_text(config, cls, assignment)
    return config.to_dict()

"""`soraxla train`: one loop for the VAE and the diffusion transformer."""

import argparse
from pathlib import Path
from typing import Any

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
        type=Path,
        help="a dataset of `soraxla prepare`; for a VAE, a folder of media",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        type=Path,
        help="training folder; an existing one is continued",
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
        help="replace a setting, such as loop.steps=1000 (repeatable)",
    )

    group = parser.add_argument_group(
        "several processes", "found by themselves on a Cloud TPU of several workers"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--processes", type=int, metavar="N", help="in all")
    group.add_argument("--process-id", type=int, metavar="I", help="this one, from 0")


def run(args: argparse.Namespace) -> None:
    from soraxla.parallel.cluster import find_group
    from soraxla.parallel.rendezvous import join

    kind, config = configured(args.config, args.set)
    if args.workdir.exists() and not args.workdir.is_dir():
        raise UserError(f"--workdir {args.workdir}: is a file, expected a folder")
    group = find_group(args.coordinator, args.processes, args.process_id)
    if group is not None:
        join(group)
    train = _train_vae if kind == "vae" else _train_dit
    train(args, config)


def _train_vae(args: argparse.Namespace, config: dict[str, Any]) -> None:
    import jax

    from soraxla.checkpoints.load import load_vae
    from soraxla.core.config import build
    from soraxla.parallel.mesh import make_mesh
    from soraxla.training.experiment import (
        VAETrainingConfig,
        media_files,
        vae_experiment,
    )
    from soraxla.training.loop import train
    from soraxla.training.preview import vae_preview

    cfg = build(VAETrainingConfig, config)
    mesh = make_mesh(cfg.mesh)
    with jax.set_mesh(mesh):
        start = load_vae(args.init) if args.init else None
        preview = vae_preview(cfg.step.model, media_files(args.data))
        job = vae_experiment(cfg, args.data, start=start, preview=preview, mesh=mesh)
        train(job, cfg.loop, args.workdir)


def _train_dit(args: argparse.Namespace, config: dict[str, Any]) -> None:
    import jax

    from data_pipelines.dataset import open_dataset
    from soraxla.core.config import build
    from soraxla.parallel.mesh import make_mesh
    from soraxla.training.experiment import DiTTrainingConfig, dit_experiment
    from soraxla.training.finetune import open_start, settings_of
    from soraxla.training.loop import train
    from soraxla.training.preview import dit_preview

    start = open_start(args.init) if args.init else None
    cfg = build(DiTTrainingConfig, settings_of(config, start))
    mesh = make_mesh(cfg.mesh, width=cfg.step.model.width)
    with jax.set_mesh(mesh):
        dataset = open_dataset(args.data)
        preview = dit_preview(cfg.step, dataset)
        job = dit_experiment(
            cfg, dataset, args.workdir, start=start, preview=preview, mesh=mesh
        )
        train(job, cfg.loop, args.workdir)


def configured(spec: str, assignments: list[str]) -> tuple[str, dict[str, Any]]:
    """Returns (kind, settings) of `--config`, with those of `--set`.

    Raises:
        UserError: see `load_preset` and `set_from_text`.
    """
    from soraxla.core.config import set_from_text
    from soraxla.training.presets import load_preset, training_class

    config = load_preset(spec)
    cls = training_class(config, spec)
    for assignment in assignments:
        set_from_text(config, cls, assignment)
    settings = config.to_dict()
    return settings.pop("kind"), settings

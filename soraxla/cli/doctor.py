"""`soraxla doctor`: checks a fine-tuning before it runs."""

import argparse
from pathlib import Path

from soraxla.cli.following import say_next
from soraxla.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        help="model that the training will start from, as in --init",
    )
    parser.add_argument("--data", required=True, type=Path, help="prepared dataset")
    parser.add_argument(
        "--media", required=True, type=Path, help="folder of clips, for the VAE"
    )
    parser.add_argument(
        "--config",
        default="finetune_wan:lora",
        metavar="NAME[:ARGUMENT]",
        help="configuration of the training (default: %(default)s)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as in train"
    )


def run(args: argparse.Namespace) -> None:
    import jax

    from data_pipelines.dataset import open_dataset
    from soraxla.cli.train import configured
    from soraxla.core.config import build
    from soraxla.parallel.mesh import make_mesh
    from soraxla.tools.preflight import examine
    from soraxla.training.experiment import DiTTrainingConfig
    from soraxla.training.finetune import open_start, settings_of
    from soraxla.training.presets import split

    kind, config = split(configured(args.config, args.set))
    if kind != "dit":
        raise UserError(f"{args.config}: trains no transformer; the doctor knows those")
    failed = []
    start = open_start(args.checkpoint)
    cfg = build(DiTTrainingConfig, settings_of(config, start))
    with jax.set_mesh(make_mesh(cfg.mesh, width=cfg.step.model.width)):
        for check in examine(cfg, start, open_dataset(args.data), args.media):
            print(f"{'ok  ' if check.well else 'FAIL'}  {check.name}: {check.found}")
            if not check.well:
                failed.append(check.name)
    if failed:
        raise UserError(f"not fit for training: {', '.join(failed)}")
    words = ["--config", args.config, "--data", args.data, "--init", args.checkpoint]
    words += [word for each in args.set for word in ("--set", each)]
    say_next("soraxla", "train", *words, "--workdir", "FOLDER")

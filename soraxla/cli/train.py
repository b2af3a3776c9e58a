"""`soraxla train`: one loop for the VAE and the diffusion transformer."""

import argparse
from pathlib import Path
from typing import Any

from soraxla.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:SIZE]",
        help="such as configs/dit.py:xs",
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

    config = load_config(args.config)
    for assignment in args.set:
        replace_setting(config, assignment)
    kind = config.pop("kind", None)
    if kind not in ("vae", "dit"):
        raise UserError(f"{args.config}: kind is {kind!r}, expected 'vae' or 'dit'")
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


def load_config(spec: str) -> dict[str, Any]:
    """`FILE[:ARGUMENT]` → the nested dict of the file's `get_config`.

    Raises:
        UserError: the file is missing, cannot be run, or has no `get_config`.
    """
    import importlib.util
    import inspect

    from ml_collections import ConfigDict

    name, _, argument = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration; configs/ has some")
    module_spec = importlib.util.spec_from_file_location("soraxla_config", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: not a Python file; a configuration ends in .py")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        get_config = module.get_config
    except (SyntaxError, ImportError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be used as a configuration ({error})"
        ) from error
    if argument and not inspect.signature(get_config).parameters:
        raise UserError(f"{path}: takes no size, remove ':{argument}'")
    config = get_config(argument) if argument else get_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config made {type(config)}, expected ConfigDict")
    return config.to_dict()


def replace_setting(config: dict[str, Any], assignment: str) -> None:
    """Replaces one setting in place; `KEY=VALUE`, the value a Python literal or text.

    Raises:
        UserError: no `=`, or no such key (names the nearest).
    """
    import ast

    from soraxla.core.config import nearest

    key, separator, text = assignment.partition("=")
    if not separator:
        raise UserError(f"--set {assignment}: expected KEY=VALUE")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    *parents, last = key.split(".")
    node: Any = config
    for part in [*parents, last]:
        if not isinstance(node, dict) or part not in node:
            known = node if isinstance(node, dict) else []
            raise UserError(f"--set {key}: unknown {part!r}{nearest(part, known)}")
        if part is not last:
            node = node[part]
    node[last] = value

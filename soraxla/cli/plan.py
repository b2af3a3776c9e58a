"""`soraxla plan`: memory and traffic on TPUs, without a TPU."""

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from soraxla.cli.following import say_next
from soraxla.cli.pulse import pulse
from soraxla.core.errors import UserError

if TYPE_CHECKING:
    from soraxla.tools.memory_plan import Plan

_SHOWN = 8
# These keep libtpu from looking for a TPU and its workers, and from warnings.
_QUIET = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # the plan has the seconds of compiling
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME[:ARGUMENT]",
        help="a transformer's preset, such as dit:xl, or a Python file",
    )
    parser.add_argument(
        "--topology", required=True, help="chips, such as v5e:8x8, v5p:4x4x4 or v5p-128"
    )
    parser.add_argument(
        "--what",
        choices=("train", "sample", "vae-decode"),
        default="train",
        help="the program: a training step, a sampler step or a chunk of the decoder "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--rows",
        type=int,
        help="rows of a step, on all chips (default: the configuration's, or the "
        "nearest number that all chips can share; 1 for sample)",
    )
    parser.add_argument("--row-length", type=int, help="tokens of a row")
    parser.add_argument(
        "--size", default="1280x720", metavar="WxH", help="pixels, for vae-decode"
    )
    parser.add_argument(
        "--latents",
        type=int,
        help="latent frames of a chunk, for vae-decode (default: those of "
        "soraxla generate)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as in train; mesh.fsdp=32, mesh.context=2 and so on set the mesh "
        "(default: the configuration's; context over all chips for sample and "
        "vae-decode)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the plan to this file"
    )


def run(args: argparse.Namespace) -> None:
    import os

    from soraxla.files.atomic_file import atomic_file

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if args.json:
        _check_writable(args.json)
    compiled = _planner(args)
    with pulse(f"compiling {args.what} for {args.topology}, in 1 to 20 minutes"):
        made = compiled()
    print(report(made))
    say_next(*_following(args, made))
    if args.json:
        written = {"command": _words(args), **made.to_dict()}
        with atomic_file(args.json) as partial:
            partial.write_text(json.dumps(written, indent=1) + "\n")


def _check_writable(path: Path) -> None:
    """Raises UserError or OSError if a file cannot be written, before long work."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"--json {path}: the folder {folder} does not exist; make it")
    if path.is_dir():
        raise UserError(f"--json {path}: is a folder; name a file")
    with tempfile.TemporaryFile(dir=folder):
        pass


def _words(args: argparse.Namespace) -> list[str]:
    """Returns the command line again, without --json."""
    words = []
    for name, value in vars(args).items():
        if name in ("verb", "json", "traceback") or value is None:
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    return words


def _following(args: argparse.Namespace, made: "Plan") -> list[str]:
    """Returns the command that does on the chips what was planned."""
    if made.what != "train":
        return ["soraxla", "generate", "--checkpoint", "FOLDER", "--prompt", "…"]
    sets = [f"batch_rows={made.settings['batch_rows']}"]
    if args.row_length is not None:
        sets.append(f"pack.row_length={args.row_length}")
    words = ["soraxla", "train", "--config", args.config]
    words += [word for each in [*sets, *args.set] for word in ("--set", each)]
    return [*words, "--data", "DATASET", "--workdir", "FOLDER"]


def _planner(args: argparse.Namespace) -> "Callable[[], Plan]":
    """Returns the compiling of the options' program, once they are found right."""
    from soraxla.checkpoints.wan.families import WAN_VAES
    from soraxla.cli.generate import parse_size
    from soraxla.cli.train import configured
    from soraxla.core.config import build
    from soraxla.generation.vae_streaming import chunk
    from soraxla.models.vae.model import VAEConfig
    from soraxla.tools.memory_plan import (
        fitted,
        plan_decoding,
        plan_sampling,
        plan_training,
    )
    from soraxla.tools.topologies import topology_name
    from soraxla.training.experiment import DiTTrainingConfig
    from soraxla.training.presets import split

    named = {"batch_rows": args.rows, "pack.row_length": args.row_length}
    sets = [f"{key}={n}" for key, n in named.items() if n is not None]
    kind, config = split(configured(args.config, [*sets, *args.set]))
    if kind != "dit":
        raise UserError(f"{args.config}: trains no transformer; plan knows those")
    cfg = build(DiTTrainingConfig, config)
    rows = args.rows is not None or any(s.startswith("batch_rows=") for s in args.set)
    topology = topology_name(args.topology)
    cfg = fitted(cfg, topology, what=args.what, rows=rows)
    if args.what == "train":
        return partial(plan_training, cfg, topology)
    if args.what == "sample":
        return partial(plan_sampling, cfg, topology)
    channels = cfg.step.model.latent_channels
    vae = WAN_VAES.get(channels, VAEConfig(latent_channels=channels))
    size = parse_size(args.size)
    latents = chunk(size[0] * size[1]) if args.latents is None else args.latents
    return partial(plan_decoding, vae, cfg.mesh, topology, size=size, latents=latents)


def report(made: "Plan") -> str:
    """Returns the plan as a page of text."""
    from soraxla.tools.topologies import chip_of

    def gib(n: float | int) -> str:
        return f"{n / 2**30:.2f} GiB"

    devices = chip_of(made.topology).devices
    unit = "chip" if devices == 1 else f"device, {devices} a chip"
    mesh = " x ".join(f"{name} {size}" for name, size in made.mesh.items())
    chips = made.chips // devices
    lines = [
        f"FITS: {made.what} on {made.topology}, {chips} chips as {mesh}",
        f"  compiled in   {made.compile_seconds:.0f} s",
        f"  arguments     {gib(made.arguments)} a {unit}",
        f"  temporaries   {gib(made.temporaries)}",
        f"  peak          {gib(made.peak)} of {gib(made.hbm)}, {made.free:.0%} free",
    ]
    if made.filling_rows:
        lines.append(f"  rows          about {made.filling_rows} would fill it")
    if made.flops is not None:
        rate = f", at most {made.tokens_a_second:,.0f} a second"
        lines += [
            f"  tokens        {made.tokens:,} a step{rate * (made.what == 'train')}",
            f"  FLOPs         {made.flops:.3g} a step, counted; MFU at most "
            f"{made.mfu:.0%}",
            f"  estimate      at least {made.estimate_seconds:.3g} s a step, were "
            "products and links at their peaks (not measured)",
        ]
    for place, inside in (("inside", True), ("outside", False)):
        found = [c for c in made.collectives if c.in_loop == inside]
        total = gib(sum(c.bytes for c in found))
        lines.append(f"  sent {place} loops: {total} a {unit} in {len(found)} shapes")
        lines += [
            f"    {c.kind:<20} {c.shape:<26} {c.calls:>6} x {gib(c.bytes / c.calls)}"
            for c in found[:_SHOWN]
        ]
    return "\n".join(lines)

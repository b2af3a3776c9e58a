"""Checks of model, data and memory before a long fine-tuning."""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from data_pipelines.dataset import Dataset
from data_pipelines.loader import segments
from soraxla.checkpoints.load import load_vae
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.diffusion.process import Process
from soraxla.evals.denoising import TRIPLES, denoising_ratio
from soraxla.evals.preview import crop
from soraxla.generation.vae_streaming import decode_clip, encode_clip, psnr
from soraxla.media.read import read_clip
from soraxla.parallel.mesh import make_mesh
from soraxla.training.dit_experiment import dit_experiment, put_computed
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.finetune import Start, check_start
from soraxla.training.loop import Experiment
from soraxla.training.summary import program_bytes
from soraxla.training.vae_experiment import media_files

# Predicting zero has the ratio 1. A network that fits the data is far below, and random
# weights or the latents of another VAE are at 1 or above.
MAX_RATIO = 0.9
# A lower PSNR means another VAE, or weights that are not loaded.
MIN_PSNR = 20.0
STEPS = 3
_CLIPS, _FRAMES = 4, 17


class Check(NamedTuple):
    """A check: its name, its result, and the finding in words."""

    name: str
    well: bool
    found: str


def examine(
    cfg: DiTTrainingConfig, start: Start, dataset: Dataset, media: Path
) -> Iterator[Check]:
    """Yields each check once it is done; none stops the others.

    Args:
        start: the model to be fine-tuned, `start.folder / "vae"` its VAE.
        media: clips of the user's own, for the VAE's round trip.
    """
    with tempfile.TemporaryDirectory() as workdir:
        trial = _Trial(cfg, start, dataset, Path(workdir))
        checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
            ("dataset matches", lambda: _matches(start, dataset)),
            ("weights are loaded", lambda: _denoises(cfg, start, dataset)),
            ("VAE round trip", lambda: _round_trip(start.folder / "vae", media)),
            ("memory", trial.memory),
            (f"first {STEPS} steps", trial.steps),
        ]
        for name, look in checks:
            try:
                yield Check(name, *look())
            except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
                # JAX's error when memory runs out has many lines.
                yield Check(name, False, str(error).partition("\n")[0])


def _matches(start: Start, dataset: Dataset) -> tuple[bool, str]:
    check_start(start, dataset)
    vae = dataset.card["vae_sha256"][:12]
    return True, f"text encoder {dataset.card['text_encoder']}, VAE {vae}…"


def _denoises(
    cfg: DiTTrainingConfig, start: Start, dataset: Dataset
) -> tuple[bool, str]:
    model = start.dit.model
    mesh = make_mesh(cfg.mesh, width=model.width)
    process = build(Process, start.dit.config["process"], "process.")
    shift = partial(time_shift, model.shift)
    some = segments(dataset, shift, model.rope_fps, model.controls, most=TRIPLES)
    params = put_computed(start.dit.params, model, mesh)
    ratio = denoising_ratio(params, model, process, some, mesh=mesh)
    found = f"error on samples {ratio:.3f} of predicting zero's"
    return ratio <= MAX_RATIO, f"{found}, expected at most {MAX_RATIO}"


def _round_trip(vae: Path, media: Path) -> tuple[bool, str]:
    loaded = load_vae(vae)
    decibels = []
    for path in media_files(media)[:_CLIPS]:
        clip = crop(read_clip(path, _FRAMES), loaded.model)
        if not clip.size:
            raise UserError(f"{path}: is smaller than {loaded.model.spatial} pixels")
        latents = encode_clip(loaded.params, loaded.model, clip)
        decibels.append(psnr(clip, decode_clip(loaded.params, loaded.model, latents)))
    lowest = min(decibels)
    found = (
        f"{np.mean(decibels):.1f} dB over {len(decibels)} clips, lowest {lowest:.1f}"
    )
    return lowest >= MIN_PSNR, f"{found}, expected at least {MIN_PSNR:g}"


class _Trial:
    """The planned training, compiled once."""

    def __init__(
        self, cfg: DiTTrainingConfig, start: Start, dataset: Dataset, workdir: Path
    ):
        self._made = cfg, dataset, workdir, start

    @cached_property
    def _experiment(self) -> Experiment:
        cfg, dataset, workdir, start = self._made
        return dit_experiment(cfg, dataset, workdir, start=start)

    @cached_property
    def _program(self) -> jax.stages.Compiled:
        return self._experiment.compiled_step()

    def memory(self) -> tuple[bool, str]:
        needed = program_bytes(self._program)
        if needed is None:
            return True, "this platform does not report it"
        there = _device_bytes()
        found = f"a step needs {needed / 2**30:.2f} GiB of {there / 2**30:.1f}"
        return needed < there, found

    def steps(self) -> tuple[bool, str]:
        experiment = self._experiment
        state, batches, losses = experiment.start(), iter(experiment.batches), []
        for _ in range(STEPS):
            batch = experiment.put(next(batches))
            state, metrics = self._program(state, batch, *experiment.frozen)
            losses.append(float(metrics["loss"]))
        found = f"loss {', '.join(f'{loss:.4f}' for loss in losses)}"
        skipped = int(metrics["skipped"])
        return not skipped, found + (f", {skipped} not finite" if skipped else "")


def _device_bytes() -> int:
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

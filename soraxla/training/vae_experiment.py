"""The experiment of a VAE: its settings and a folder of media for the loop."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from data_pipelines.sources.files import media_below
from data_pipelines.vae_windows import WindowDataset
from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.checkpoints.vgg import load_vgg
from soraxla.core.config import to_dict
from soraxla.core.errors import UserError
from soraxla.evals.evaluator import EvaluationContext
from soraxla.files.hashing import sha256_of_tree
from soraxla.media.read import MEDIA_SUFFIXES
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.statistics import latent_statistics
from soraxla.packing.schedule import SCHEDULE_VERSION
from soraxla.parallel.mesh import (
    REPLICATED,
    host_rows,
    make_mesh,
    put_rows,
    put_tree,
)
from soraxla.training.experiment import VAETrainingConfig
from soraxla.training.linear_start import components_start, linear_start
from soraxla.training.loop import Experiment
from soraxla.training.state import TrainState
from soraxla.training.vae_step import (
    VAEStepConfig,
    vae_fine_tuned,
    vae_init,
    vae_step,
)

VIDEO_AXES = {"video": ("batch", None, None, None, None)}


def vae_experiment(
    cfg: VAETrainingConfig,
    media: Path,
    *,
    start: LoadedModel | None = None,
    mesh: Mesh | None = None,
) -> Experiment:
    """Returns the training on pixel windows of all media files below a folder.

    Args:
        start: a VAE to fine-tune; None starts from fresh weights, a linear encoder from
            the principal components.
        mesh: the devices; None is `cfg.mesh` over all of them.

    Raises:
        UserError: no media, none large enough, `start` has other widths or is missing,
            the mesh does not divide a batch, or the perceptual term's weights cannot be
            read.
    """
    mesh = make_mesh(cfg.mesh) if mesh is None else mesh
    for i, shape in enumerate(cfg.windows.shapes):
        host_rows(shape.batch, mesh, what=f"windows.shapes[{i}].batch")
    if start is not None and _widths(start.model) != _widths(cfg.step.model):
        raise UserError(
            f"the VAE to start from has widths {_widths(start.model)}, the "
            f"configuration {_widths(cfg.step.model)}; set step.model to the VAE's"
        )
    if cfg.step.train == "decoder":
        cfg = replace(cfg, step=_with_latents(cfg.step, start))
    features = _features(cfg)
    batches = WindowDataset(media_files(media), cfg.windows, seed=cfg.step.seed)
    files = batches.files
    init = {} if start is None else {"init": {"sha256": sha256_of_tree(start.params)}}
    model = cfg.step.model
    if start is None and (model.linear or model.patched):
        from_components = linear_start if model.linear else components_start
        start = from_components(model, batches, seed=cfg.step.seed)
    return Experiment(
        settings={
            "kind": "vae",
            "schedule": SCHEDULE_VERSION,
            "data": _identity(media, files),
            **to_dict(cfg),
            **init,
            **({"features": sha256_of_tree(features)} if features else {}),
        },
        config=VAETrainingConfig,
        init=functools.partial(vae_fine_tuned, cfg=cfg.step, start=start.model)
        if start
        else functools.partial(vae_init, cfg.step),
        init_args=(jax.device_get(start.params),) if start else (),
        step=functools.partial(vae_step, cfg=cfg.step),
        convolves=True,
        batches=batches.for_host(functools.partial(host_rows, mesh=mesh)),
        unit="px",
        context=functools.partial(_vae_context, cfg=cfg, media=files, mesh=mesh),
        frozen=(put_tree(features, REPLICATED, mesh),) if features else (),
        mesh=mesh,
        put=functools.partial(put_rows, axes=VIDEO_AXES, mesh=mesh),
    )


def with_model(config: Mapping[str, Any], start: LoadedModel | None) -> dict[str, Any]:
    """Returns a configuration with the settings of the model that it leaves out.

    They are those of `start`. The statistics of latents are no settings.
    """
    if start is None:
        return dict(config)
    found = to_dict(start.model)
    for name in ("latent_mean", "latent_std"):
        found.pop(name)
    step = config["step"]
    return {**config, "step": {**step, "model": {**found, **step.get("model", {})}}}


def _with_latents(step: VAEStepConfig, start: LoadedModel | None) -> VAEStepConfig:
    """Returns the settings of a decoder's training with the statistics of its latents.

    Raises:
        UserError: there is no VAE whose encoder could stay.
    """
    if start is None:
        raise UserError(
            "step.train is 'decoder', which keeps the encoder of another VAE; name its "
            "folder with --init"
        )
    mean, std = start.model.latent_mean, start.model.latent_std
    return replace(step, model=replace(step.model, latent_mean=mean, latent_std=std))


def _features(cfg: VAETrainingConfig) -> PyTree:
    """Returns the frozen network of the perceptual term; None without it."""
    if (term := cfg.step.losses.perceptual) is None:
        return None
    return load_vgg(None if term.file is None else Path(term.file))


def _vae_context(
    state: TrainState,
    *_: PyTree,
    cfg: VAETrainingConfig,
    media: Sequence[Path],
    mesh: Mesh,
    step: int,
    workdir: Path,
) -> EvaluationContext:
    model = cfg.step.model
    if cfg.step.train == "all":
        mean, std = latent_statistics(state.extra)
        model = replace(model, latent_mean=mean, latent_std=std)
    return EvaluationContext(
        params=state.ema,
        model=model,
        media=media,
        mesh=mesh,
        step=step,
        workdir=workdir,
        seed=cfg.step.seed,
    )


def _widths(model: VAEConfig) -> tuple:
    return (
        model.base_width,
        model.latent_channels,
        model.multipliers,
        model.res_blocks,
        model.temporal_down,
        model.residual,
        model.decoder_width,
        model.pixel_patch,
        model.frame_patch,
        model.linear,
    )


def _identity(folder: Path, files: Sequence[Path]) -> str:
    """Returns a hash of the names, sizes and times of files below a folder."""
    found = []
    for file in files:
        status = file.stat()
        # Copies keep times in whole seconds at least.
        size, time = status.st_size, int(status.st_mtime)
        found.append([file.relative_to(folder).as_posix(), size, time])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def media_files(folder: Path) -> list[Path]:
    """Returns the media of `media_below`.

    Raises:
        UserError: there is no such folder, or no media in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of videos")
    files = media_below(folder)
    if not files:
        raise UserError(
            f"{folder}: no media, expected files ending in "
            f"{', '.join(sorted(MEDIA_SUFFIXES))}"
        )
    return files

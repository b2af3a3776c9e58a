"""Settings and data to a `Job` for the loop: one function a model."""

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from data_pipelines.dataset import Dataset, check_vae
from data_pipelines.held_out import split
from data_pipelines.loader import packed_batches
from data_pipelines.vae_windows import WindowConfig, WindowDataset
from soraxla.checkpoints.model_folder import LoadedModel, sha256_of_folder
from soraxla.core.config import to_dict
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.evals.evaluator import EvaluationContext
from soraxla.evals.evaluators import check_evaluators
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.hashing import sha256_of_tree
from soraxla.media.read import MEDIA_SUFFIXES
from soraxla.models import dit
from soraxla.models.dit import lora
from soraxla.models.dit.sharding import trained_rules
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.statistics import latent_statistics
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule_index import longest
from soraxla.parallel.compiler import jit
from soraxla.parallel.mesh import (
    MESH_AXES,
    PACKED_AXES,
    MeshConfig,
    axis_size,
    host_rows,
    make_mesh,
    param_shardings,
    put_rows,
    put_tree,
)
from soraxla.parallel.multihost import barrier, is_main
from soraxla.training.finetune import Start, check_start
from soraxla.training.linear_start import linear_start
from soraxla.training.loop import Experiment, LoopConfig
from soraxla.training.optim import OptimConfig
from soraxla.training.state import TrainState, create
from soraxla.training.steps import (
    DiTStepConfig,
    VAEStepConfig,
    dit_init,
    dit_step,
    vae_init,
    vae_step,
)

VIDEO_AXES = {"video": ("batch", None, None, None, None)}


@dataclass(frozen=True, kw_only=True)
class DiTTrainingConfig:
    """A whole training of the diffusion transformer.

    Attributes:
        batch_rows: rows of a step.
        accumulate: parts of a step's rows that are computed one after the other, with
            the memory of one; the step is the same.
        shift: of the times that are trained, as `DiTConfig.shift`; None is the model's
            own, at which it samples. A lower one teaches what is nearly clean.
        eval_share: share of the dataset's sources that are held out for evaluation.
    """

    step: DiTStepConfig
    pack: PackConfig
    loop: LoopConfig
    batch_rows: int = 1
    accumulate: int = 1
    shift: float | Literal["auto"] | None = None
    eval_share: float = 0.0
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        _check_decay(self.step.optim, self.loop)
        if not 0 <= self.eval_share < 1:
            raise UserError(
                f"eval_share is {self.eval_share}, expected a number from 0 on and "
                "below 1"
            )
        check_evaluators(self.loop.evaluators, "dit", self.eval_share)
        if self.shift is not None:
            time_shift(self.shift, height=1, width=1, latent_frames=1)  # refuses it
        for name in ("batch_rows", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class VAETrainingConfig:
    """A whole training of the VAE."""

    step: VAEStepConfig
    windows: WindowConfig
    loop: LoopConfig
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        _check_decay(self.step.optim, self.loop)
        check_evaluators(self.loop.evaluators, "vae")


def _check_decay(optim: OptimConfig, loop: LoopConfig) -> None:
    if optim.decay_steps is not None and loop.steps > optim.decay_steps:
        raise UserError(
            f"loop.steps is {loop.steps}, but from step.optim.decay_steps = "
            f"{optim.decay_steps} on the rate is 0: set both alike; a folder that was "
            "trained so is gone on from by --init, in another --workdir"
        )


def dit_experiment(
    cfg: DiTTrainingConfig,
    dataset: Dataset,
    workdir: Path | None,
    *,
    start: Start | None = None,
    mesh: Mesh | None = None,
) -> Experiment:
    """Trains on a prepared dataset; the dataset's VAE is copied into `workdir`.

    A `workdir` of None writes nothing, for a dry run.

    `start` is a model to fine-tune, whole or, with `cfg.step.lora`, by adapters; None
    starts from nothing. `mesh` has the devices; None is `cfg.mesh` over all of them.

    Raises:
        UserError: the dataset does not fit the model, or the mesh the model or the
            rows; a sample can never be packed,
            `workdir` holds another VAE than the dataset was prepared with, a target of
            LoRA is no layer, or there is LoRA and no `start`.
    """
    model, card, adapted = cfg.step.model, dataset.card, cfg.step.lora is not None
    if start is not None:
        check_start(start, dataset)
    elif adapted:
        raise UserError(
            "step.lora trains adapters of a model; name its folder with --init"
        )
    mesh = make_mesh(cfg.mesh, width=model.width) if mesh is None else mesh
    own = check_mesh(cfg, mesh)
    fresh = functools.partial(dit_init, cfg.step)
    if adapted:
        jax.eval_shape(fresh)  # finds a target that is no layer

    def fine_tuned(params: PyTree) -> TrainState:
        # Copies: the loop donates its state, and `start` stays the caller's.
        params = jax.tree.map(jnp.copy, params)
        # What the model is given beside its own starts fresh.
        return create({**fresh().params, **params}, cfg.step.optim, {})

    for what, expected, found in (
        ("latent channels", model.latent_channels, card["latent_channels"]),
        ("text width", model.text_width, card["text_width"]),
    ):
        if expected != found:
            raise UserError(
                f"{dataset.path}: has {found} {what}, the model expects {expected}; "
                "set step.model to the dataset's, or prepare it with other encoders"
            )
    training, held_out = split(dataset, cfg.eval_share)
    batches = packed_batches(
        training,
        cfg.pack,
        seed=cfg.step.seed,
        batch_rows=cfg.batch_rows,
        shift=functools.partial(
            time_shift, model.shift if cfg.shift is None else cfg.shift
        ),
        rope_fps=model.rope_fps,
        controls=model.controls,
        host_rows=own,
    )
    if workdir is not None:  # last, so that a refused start leaves nothing behind
        _keep_vae(dataset, workdir)
    return Experiment(
        settings={
            "kind": "dit",
            **to_dict(cfg),
            "text_encoder": card["text_encoder"],
            "vae_sha256": card["vae_sha256"],
            "max_latent_frames": longest(training.sizes, cfg.pack),
            **({"init": start.record()} if start else {}),
        },
        init=fresh if start is None or adapted else fine_tuned,
        init_args=(start.dit.params,) if start and not adapted else (),
        step=functools.partial(dit_step, cfg=cfg.step, accumulate=cfg.accumulate),
        frozen=(_frozen(start, cfg, mesh),) if start and adapted else (),
        batches=batches,
        unit="tokens",
        context=functools.partial(
            _dit_context, cfg=cfg, dataset=dataset, held_out=held_out, mesh=mesh
        ),
        mesh=mesh,
        rules=trained_rules(cfg.step.lora),
        put=functools.partial(put_rows, axes=PACKED_AXES, mesh=mesh),
    )


def _keep_vae(dataset: Dataset, workdir: Path) -> None:
    """Copies the dataset's VAE into a training folder that has none."""
    if is_main() and not (workdir / "vae").exists():
        with atomic_folder(workdir / "vae") as partial:
            shutil.copytree(dataset.path / "vae", partial, dirs_exist_ok=True)
    barrier("the VAE is there")
    check_vae(dataset, sha256_of_folder(workdir / "vae"))


def _dit_context(
    state: TrainState,
    base: PyTree = None,
    *,
    cfg: DiTTrainingConfig,
    dataset: Dataset,
    held_out: Dataset | None,
    mesh: Mesh,
    step: int,
    workdir: Path,
) -> EvaluationContext:
    return EvaluationContext(
        params=lora.merged(state.ema, base, cfg.step.lora),
        model=cfg.step.model,
        process=cfg.step.process,
        dataset=dataset,
        held_out=held_out,
        pack=cfg.pack,
        mesh=mesh,
        step=step,
        workdir=workdir,
        seed=cfg.step.seed,
    )


def _frozen(start: Start, cfg: DiTTrainingConfig, mesh: Mesh) -> PyTree:
    """The base of adapters on the devices, cut as if it were trained."""
    made = functools.partial(dit.cast_kernels, cfg=cfg.step.model)
    params = put_tree(start.dit.params, dit.RULES, mesh)
    abstract = jax.eval_shape(made, params)
    return jit(made, out_shardings=param_shardings(abstract, dit.RULES, mesh))(params)


def check_mesh(cfg: DiTTrainingConfig, mesh: Mesh) -> list[int]:
    """The rows of a batch that this host reads.

    Raises:
        UserError: the mesh does not divide what it is to cut.
    """
    own, model = host_rows(cfg.batch_rows, mesh), cfg.step.model
    devices = axis_size(mesh, MESH_AXES["batch"])
    if cfg.batch_rows % (cfg.accumulate * devices):
        raise UserError(
            f"batch_rows is {cfg.batch_rows}, which accumulate = {cfg.accumulate} "
            f"parts of data x fsdp = {devices} devices do not divide; set it to a "
            f"multiple of {cfg.accumulate * devices}, or change accumulate"
        )
    for what, size, axis in (
        ("pack.row_length", cfg.pack.row_length, "tokens"),
        ("step.model.width", model.width, "embed"),
        ("step.model.heads", model.heads, "heads"),
        ("step.model.mlp_width", model.mlp_width, "mlp"),
    ):
        parts = axis_size(mesh, MESH_AXES[axis])
        if size % parts:
            raise UserError(
                f"{what} is {size}, which {parts} devices along "
                f"{' x '.join(f'mesh.{name}' for name in MESH_AXES[axis])} do not "
                "divide; change one of them"
            )
    return own


def vae_experiment(
    cfg: VAETrainingConfig,
    media: Path,
    *,
    start: LoadedModel | None = None,
    mesh: Mesh | None = None,
) -> Experiment:
    """Trains on pixel windows of all media files below a folder.

    `start` is a VAE to fine-tune; None starts from nothing, a linear encoder from the
    principal components. `mesh` has the devices; None is `cfg.mesh` over all of them.

    Raises:
        UserError: no media, none large enough, `start` has other widths, or the mesh
            does not divide a batch.
    """
    mesh = make_mesh(cfg.mesh) if mesh is None else mesh
    for i, shape in enumerate(cfg.windows.shapes):
        host_rows(shape.batch, mesh, what=f"windows.shapes[{i}].batch")
    files = media_files(media)
    if start is not None and _widths(start.model) != _widths(cfg.step.model):
        raise UserError(
            f"the VAE to start from has widths {_widths(start.model)}, the "
            f"configuration {_widths(cfg.step.model)}; set step.model to the VAE's"
        )
    batches = WindowDataset(files, cfg.windows, seed=cfg.step.seed)
    init = {} if start is None else {"init": {"sha256": sha256_of_tree(start.params)}}
    if start is None and cfg.step.model.linear:
        start = linear_start(cfg.step.model, batches, seed=cfg.step.seed)

    def fine_tuned(params: PyTree) -> TrainState:
        assert start is not None
        mean = jnp.asarray(start.model.latent_mean)
        square = mean**2 + jnp.asarray(start.model.latent_std) ** 2
        moments = {"mean": mean, "square": square}
        # Copies: the loop donates its state, and `start` stays the caller's.
        return create(jax.tree.map(jnp.copy, params), cfg.step.optim, moments)

    return Experiment(
        settings={"kind": "vae", **to_dict(cfg), **init},
        init=fine_tuned if start else functools.partial(vae_init, cfg.step),
        init_args=(jax.device_get(start.params),) if start else (),
        step=functools.partial(vae_step, cfg=cfg.step),
        convolves=True,
        batches=batches.for_host(functools.partial(host_rows, mesh=mesh)),
        unit="px",
        context=functools.partial(_vae_context, cfg=cfg, media=files, mesh=mesh),
        mesh=mesh,
        put=functools.partial(put_rows, axes=VIDEO_AXES, mesh=mesh),
    )


def _vae_context(
    state: TrainState,
    *,
    cfg: VAETrainingConfig,
    media: Sequence[Path],
    mesh: Mesh,
    step: int,
    workdir: Path,
) -> EvaluationContext:
    mean, std = latent_statistics(state.extra)
    return EvaluationContext(
        params=state.ema,
        model=replace(cfg.step.model, latent_mean=mean, latent_std=std),
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
        model.linear,
    )


def media_files(folder: Path) -> list[Path]:
    """All videos and pictures below a folder, sorted.

    Raises:
        UserError: there is no such folder, or no media in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of videos")
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in MEDIA_SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    if not files:
        raise UserError(
            f"{folder}: no media, expected files ending in "
            f"{', '.join(sorted(MEDIA_SUFFIXES))}"
        )
    return files

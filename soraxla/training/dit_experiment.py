"""The experiment of a transformer: its settings and a dataset for the loop."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from data_pipelines.dataset import Dataset, check_vae
from data_pipelines.held_out import as_it_began, split
from data_pipelines.loader import packed_batches
from data_pipelines.records import FEATURES
from data_pipelines.synthetic import Synthetic
from data_pipelines.transforms import TEMPORAL
from soraxla.checkpoints.model_folder import sha256_of_folder
from soraxla.checkpoints.usage import (
    GenerationDefaults,
    Usage,
    trained_usage,
    usage_of,
)
from soraxla.core.config import build, to_dict
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.evals.evaluator import EvaluationContext
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import copy_tree
from soraxla.models import dit
from soraxla.models.dit import lora
from soraxla.models.dit.config import DiTConfig
from soraxla.models.text.hashed import split_words
from soraxla.packing.conditioning import trained_tasks
from soraxla.packing.schedule import (
    SCHEDULE_CONSTANTS,
    SCHEDULE_VERSION,
    mean_row_weight,
)
from soraxla.packing.schedule_index import check_index, longest, median_clip
from soraxla.parallel.compiler import jit
from soraxla.parallel.mesh import (
    MESH_AXES,
    PACKED_AXES,
    axis_size,
    host_rows,
    make_mesh,
    param_shardings,
    put_rows,
    put_tree,
)
from soraxla.parallel.multihost import barrier, is_main
from soraxla.training.data_record import data_record
from soraxla.training.dit_step import DiTStepConfig, dit_init, dit_step
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.finetune import Start, check_start
from soraxla.training.heads import state_rules, without_heads
from soraxla.training.loop import Experiment
from soraxla.training.routing import route_length
from soraxla.training.state import TrainState, create

_MOST_WORDS = 2000  # a prompt has hardly none of so many
_MOST_CAPTIONS = 1000  # as many tell the classes of their words
# Settings of the model that are entries of a dataset's card.
_WIDTHS = ("latent_channels", "text_width")


def dit_experiment(
    cfg: DiTTrainingConfig,
    dataset: Dataset,
    workdir: Path | None,
    *,
    start: Start | None = None,
    mesh: Mesh | None = None,
) -> Experiment:
    """Returns the training on a prepared dataset; copies its VAE into `workdir`.

    Args:
        dataset: whole; a synthetic one has no VAE and no evaluators.
        workdir: the training folder; None writes nothing, for a dry run.
        start: a model to fine-tune, whole or, with `cfg.step.lora`, by adapters; None
            starts from fresh weights.
        mesh: the devices; None is `cfg.mesh` over all of them.

    Raises:
        UserError: the dataset does not fit the model, the mesh does not fit model or
            rows, a sample can never be packed, `workdir` holds another VAE than the
            dataset's, a target of LoRA is no layer, or LoRA has no `start`.
    """
    adapted, measured = cfg.step.lora is not None, isinstance(dataset, Synthetic)
    if start is None and adapted:
        raise UserError("step.lora trains adapters: name their model with --init")
    if start is not None and not measured:
        check_start(start, dataset)
    if mesh is None:
        mesh = make_mesh(cfg.mesh, width=cfg.step.model.width)
    own = check_mesh(cfg, mesh)
    fresh = functools.partial(dit_init, cfg.step)
    if adapted:
        jax.eval_shape(fresh)  # finds a target that is no layer
    _check_widths(cfg, dataset)
    training, held_out = split(dataset, cfg.eval_share)
    if held_out is not None:
        check_index(held_out.sizes, cfg.pack)  # the loader checks the others
    tuned = (start.dit.params,) if start and not adapted else ()
    batches = _batches(cfg, training, own)
    weight = mean_row_weight(training.sizes, cfg.pack, seed=cfg.step.seed)
    began = as_it_began(dataset)
    seen = {"cfg": cfg, "dataset": began, "held_out": held_out, "mesh": mesh}
    if workdir is not None and not measured:
        _keep_vae(dataset, workdir)  # last: a refused start leaves nothing behind
    return Experiment(
        settings=_settings(cfg, training, start, weight),
        config=DiTTrainingConfig,
        init=functools.partial(_fine_tuned, cfg=cfg.step) if tuned else fresh,
        init_args=tuned,
        step=_step(cfg, training, weight, mesh),
        frozen=(put_computed(start.dit.params, cfg.step.model, mesh),)
        if start and adapted
        else (),
        batches=batches,
        unit="tokens",
        context=None if measured else functools.partial(_dit_context, **seen),
        mesh=mesh,
        rules=state_rules(cfg.step),
        put=functools.partial(put_rows, axes=PACKED_AXES, mesh=mesh),
    )


def _settings(
    cfg: DiTTrainingConfig, training: Dataset, start: Start | None, weight: float
) -> dict[str, Any]:
    """Returns the content of `train.json`."""
    return {
        "kind": "dit",
        "schedule": SCHEDULE_VERSION,
        "schedule_constants": SCHEDULE_CONSTANTS,
        "mean_row_weight": weight,
        **data_record(training),
        **to_dict(cfg),
        "text_encoder": training.card["text_encoder"],
        "vae_sha256": training.card["vae_sha256"],
        **({FEATURES: training.card[FEATURES]} if cfg.step.alignment else {}),
        **_usage(cfg, training, start).record(),
        **({"init": start.record()} if start else {}),
    }


def _step(
    cfg: DiTTrainingConfig, training: Dataset, mean_row_weight: float, mesh: Mesh
):
    routing, length = cfg.step.routing, None
    if routing is not None:
        length = route_length(
            training.sizes,
            cfg.pack,
            routing,
            seed=cfg.step.seed,
            rows=cfg.batch_rows // cfg.accumulate,
            parts=axis_size(mesh, MESH_AXES["tokens"]),
        )
    return functools.partial(
        dit_step,
        cfg=cfg.step,
        accumulate=cfg.accumulate,
        mean_weight=cfg.batch_rows * mean_row_weight,
        route_length=length,
    )


def _usage(cfg: DiTTrainingConfig, training: Dataset, start: Start | None) -> Usage:
    """Returns how the trained model is used: its data's lengths and its tasks."""
    temporal = training.card.get("vae_temporal", TEMPORAL)
    median = median_clip(training.sizes, cfg.pack, temporal=temporal)
    words, captions = _language(training)
    return trained_usage(
        start and usage_of(start.dit.config, start.dit.model),
        longest=longest(training.sizes, cfg.pack),
        tasks=trained_tasks(cfg.pack.mixture, cfg.pack.next_share),
        median=build(GenerationDefaults, median),
        words=words,
        captions=captions,
    )


def _language(training: Dataset) -> tuple[list[str] | None, list[str] | None]:
    """Returns the captions' words, and captions from all over the data.

    They are None unless the words are all that the text encoder tells apart, and few
    enough for a small file.
    """
    if training.card["text_encoder"].partition(":")[0] != "hashed":
        return None, None
    words: set[str] = set()
    captions = training.index.column("caption").unique().to_pylist()
    for caption in captions:
        words.update(split_words(caption))
        if len(words) > _MOST_WORDS:
            return None, None
    count = min(len(captions), _MOST_CAPTIONS)
    chosen = np.linspace(0, len(captions) - 1, count).round().astype(int)
    return sorted(words), [captions[i] for i in chosen]


def _batches(cfg: DiTTrainingConfig, training: Dataset, host_rows: list[int]):
    model = cfg.step.model
    shift = model.shift if cfg.shift is None else cfg.shift
    return packed_batches(
        training,
        cfg.pack,
        seed=cfg.step.seed,
        batch_rows=cfg.batch_rows,
        shift=functools.partial(time_shift, shift),
        rope_fps=model.rope_fps,
        controls=model.controls,
        features=cfg.step.alignment is not None,
        host_rows=host_rows,
    )


def _fine_tuned(params: PyTree, *, cfg: DiTStepConfig) -> TrainState:
    """Returns the state before the first step from a model's parameters."""
    # Copies: the loop donates its state, and the model stays the caller's.
    params = jax.tree.map(jnp.copy, params)
    # Parameters that the model lacks, such as those of controls, start fresh.
    return create({**dit_init(cfg).params, **params}, cfg.optim, {})


def with_widths(config: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Returns settings of a fresh model for the dataset's latents and text.

    No other widths could be trained on it, so those of the configuration do not count.
    """
    step, widths = config["step"], {k: dataset.card[k] for k in _WIDTHS}
    return {**config, "step": {**step, "model": {**step["model"], **widths}}}


def with_features(config: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Returns settings whose alignment predicts the dataset's features, if any does.

    Raises:
        UserError: the dataset stores no features.
    """
    step = config["step"]
    if step.get("alignment") is None:
        return dict(config)
    stored = dataset.card.get(FEATURES)
    if stored is None:
        raise UserError(
            f"{dataset.path}: stores no features, which step.alignment needs; prepare "
            "it with --features, or leave step.alignment out"
        )
    alignment = {**step["alignment"], "width": stored["width"]}
    return {**config, "step": {**step, "alignment": alignment}}


def _check_widths(cfg: DiTTrainingConfig, dataset: Dataset) -> None:
    """Raises UserError unless the dataset's latents and text fit the model."""
    model, card = cfg.step.model, dataset.card
    for name in _WIDTHS:
        expected, found = getattr(model, name), card[name]
        if expected != found:
            raise UserError(
                f"{dataset.path}: has {found} {name.replace('_', ' ')}, the model "
                f"expects {expected}; prepare it with the encoders of the model"
            )


def _keep_vae(dataset: Dataset, workdir: Path) -> None:
    """Copies the dataset's VAE into a training folder that has none."""
    if is_main() and not (workdir / "vae").exists():
        with atomic_folder(workdir / "vae") as partial:
            copy_tree(dataset.path / "vae", partial)
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
        params=lora.merged(without_heads(state.ema), base, cfg.step.lora),
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


def put_computed(params: PyTree, model: DiTConfig, mesh: Mesh) -> PyTree:
    """Returns a model's parameters on the devices, for use without training.

    They are sharded as if they were trained; kernels have the dtype of their products.
    """
    made = functools.partial(dit.cast_kernels, cfg=model)
    params = put_tree(params, dit.RULES, mesh)
    abstract = jax.eval_shape(made, params)
    return jit(made, out_shardings=param_shardings(abstract, dit.RULES, mesh))(params)


def check_mesh(cfg: DiTTrainingConfig, mesh: Mesh) -> list[int]:
    """Returns the rows of a batch that this host reads.

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

"""The experiment of a captioner: its settings and captioned views for the loop."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from data_pipelines.captioned import (
    CaptionedViews,
    caption_batches,
    caption_index,
    encoded,
    whole_clips,
)
from data_pipelines.view import ViewConfig
from soraxla.checkpoints.load import load_captioner
from soraxla.core.config import build, to_dict
from soraxla.core.errors import UserError
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.captioner import CaptionerConfig, pretrained, rules
from soraxla.models.captioner.model import TOWER
from soraxla.models.captioner.vocabulary import common_words
from soraxla.packing.schedule import (
    SCHEDULE_CONSTANTS,
    SCHEDULE_VERSION,
    schedule_window,
)
from soraxla.parallel.mesh import PACKED_AXES, host_rows, make_mesh, put_rows
from soraxla.training.caption_step import (
    caption_init,
    caption_started,
    caption_step,
)
from soraxla.training.experiment import CaptionTrainingConfig
from soraxla.training.loop import Experiment
from soraxla.training.summary import StepWork


class Start(NamedTuple):
    """The parameters that a training starts from, and settings that follow from them.

    Attributes:
        folder: a captioner's, or that of CLIP or DINOv2 from the Hugging Face hub.
        model: settings of `CaptionerConfig`.
    """

    folder: Path
    params: PyTree
    model: dict[str, Any]


def open_start(folder: Path) -> Start:
    """Returns a captioner to fine-tune, or the pretrained tower of a new one.

    Raises:
        UserError: as `load_captioner` and `pretrained.load`.
    """
    if not pretrained.is_tower(folder):
        found = load_captioner(folder)
        return Start(folder, found.params, to_dict(found.model))
    params, tower = pretrained.load(folder)
    return Start(folder, {TOWER: params}, {"pretrained": to_dict(tower)})


def started(config: Mapping[str, Any], start: Start | None) -> dict[str, Any]:
    """Returns settings with those of the model to start from.

    A pretrained tower fixes the view, but for its frames.
    """
    step = config["step"]
    model = {**step["model"], **(start.model if start else {})}
    if start is not None and TOWER in start.params and "width" not in start.model:
        tower = build(CaptionerConfig, model).pretrained
        assert tower is not None
        most = model.get("view", {}).get("frames", ViewConfig().frames)
        model["view"] = to_dict(pretrained.view_of(tower, most))
    return {**config, "step": {**step, "model": model}}


def with_words(config: Mapping[str, Any], views: CaptionedViews) -> dict[str, Any]:
    """Returns settings with the words of the data, unless they have some."""
    step = config["step"]
    model = dict(step["model"])
    if not model.get("words"):
        words = common_words(views.captions, model.get("max_words", 8192))
        model["words"] = list(words)
    return {**config, "step": {**step, "model": model}}


def caption_experiment(
    cfg: CaptionTrainingConfig,
    views: CaptionedViews,
    *,
    start: Start | None = None,
    mesh: Mesh | None = None,
) -> tuple[Experiment, StepWork]:
    """Returns the training on captioned views, and the mean work of its steps.

    Args:
        start: of `open_start`; None starts from fresh weights.
        mesh: the devices; None is `cfg.mesh` over all of them.

    Raises:
        UserError: the views are not those of the model, a clip or a caption does not
            fit a row, or the mesh does not divide the rows.
    """
    model, step = cfg.step.model, cfg.step
    mesh = make_mesh(cfg.mesh, width=model.width) if mesh is None else mesh
    own = host_rows(cfg.batch_rows, mesh)
    if views.view != model.view:
        raise UserError(
            f"{views.path}: has views of {to_dict(views.view)}, the model sees "
            f"{to_dict(model.view)}; remove the folder, or set step.model.view to its"
        )
    encode = functools.partial(model.vocabulary.encode, most=model.max_tokens - 1)
    text = encoded(views.captions, encode)
    index = caption_index(views, text, cfg.pack)
    batches = caption_batches(
        views,
        index,
        text,
        cfg.pack,
        seed=step.seed,
        batch_rows=cfg.batch_rows,
        host_rows=own,
    )
    experiment = Experiment(
        settings=_settings(cfg, views, start),
        config=CaptionTrainingConfig,
        init=functools.partial(caption_started, cfg=step)
        if start
        else functools.partial(caption_init, step),
        init_args=(jax.device_get(start.params),) if start else (),
        step=functools.partial(caption_step, cfg=step),
        batches=batches,
        unit="tokens",
        mesh=mesh,
        rules=rules(model),
        put=functools.partial(put_rows, axes=PACKED_AXES, mesh=mesh),
    )
    rows = schedule_window(index, whole_clips(cfg.pack), seed=step.seed, window=0)
    tokens = sum(visit.tokens for row in rows for visit in row)
    room = cfg.batch_rows * cfg.pack.row_length
    amount = round(tokens * cfg.batch_rows / len(rows))
    return experiment, StepWork(amount=amount, unit="tokens", room=room)


def _settings(
    cfg: CaptionTrainingConfig, views: CaptionedViews, start: Start | None
) -> dict[str, Any]:
    """Returns the content of `train.json`."""
    init = {}
    if start is not None:
        sha256 = sha256_of_tree(start.params)
        init = {"init": {"sha256": sha256, "folder": str(start.folder.resolve())}}
    return {
        "kind": "captioner",
        "schedule": SCHEDULE_VERSION,
        "schedule_constants": SCHEDULE_CONSTANTS,
        "data": views.fingerprint,
        **to_dict(cfg),
        **init,
    }

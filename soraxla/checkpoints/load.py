"""Models by folder: a model folder, or a training folder, whose EMA is the model."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from soraxla.checkpoints.model_folder import (
    LoadedModel,
    ModelConfig,
    abstract_params,
    load_model,
    model_config,
    open_folder,
    read_config,
    save_folder,
    sha256_of_folder,
    unstack,
)
from soraxla.checkpoints.training_folder import (
    is_training_folder,
    records_usage,
    settings_of_kind,
    trained_captioner,
    trained_config,
    trained_dit,
    trained_vae,
)
from soraxla.checkpoints.usage import usage_of
from soraxla.core.paths import Place, fetched, place
from soraxla.models.dit.config import DiTConfig


def within_reach(folder: Place) -> Place:
    """Returns a local copy of a remote model folder; others are as they are.

    Orbax reads the checkpoints of a training folder in its bucket.
    """
    return folder if is_training_folder(folder) else fetched(folder)


def load_vae(folder: Place) -> LoadedModel:
    """Returns the VAE of a model folder or of a training folder (its EMA).

    Raises:
        UserError: see `load_model` and `trained_vae`.
    """
    if is_training_folder(folder):
        return trained_vae(folder)
    return load_model(fetched(folder), "vae")


def load_captioner(folder: Place) -> LoadedModel:
    """Returns the captioner of a model folder or of a training folder (its EMA).

    Raises:
        UserError: see `load_model` and `trained_captioner`.
    """
    if is_training_folder(folder):
        return trained_captioner(folder)
    return load_model(fetched(folder), "captioner")


def load_dit(folder: Place, *, computed: bool = False) -> LoadedModel:
    """Returns the diffusion transformer of a model folder or of a training folder.

    Args:
        computed: its kernels have the dtype of their products. Sampling predicts the
            same bits with them, and in bfloat16 they take half the memory.

    Raises:
        UserError: see `load_model` and `trained_dit`.
    """
    if is_training_folder(folder):
        return trained_dit(folder, load_base=load_transformer, computed=computed)
    return load_model(fetched(folder), "dit", computed=computed)


def load_transformer(checkpoint: Place, *, computed: bool = False) -> LoadedModel:
    """Loads the transformer of a training folder, or of a model folder's `dit`.

    Args:
        computed: as in `load_dit`.

    Raises:
        UserError: as `load_dit`.
    """
    folder = checkpoint if is_training_folder(checkpoint) else checkpoint / "dit"
    return load_dit(folder, computed=computed)


def read_transformer(checkpoint: Place) -> tuple[DiTConfig, dict[str, Any]]:
    """Returns the settings and the `config.json` of a transformer, not its weights.

    Raises:
        UserError: as `load_transformer`, for a damaged or missing record.
    """
    if not is_training_folder(checkpoint):
        folder = checkpoint / "dit"
        config = read_config(folder, "dit")
    else:
        folder, base = checkpoint, None
        settings = settings_of_kind(checkpoint, "dit")
        adapted = settings["step"].get("lora") is not None
        if adapted and not records_usage(settings):
            model, config = read_transformer(place(settings["init"]["folder"]))
            base = usage_of(config, model)
        config = trained_config(settings, base)
    model = model_config(folder, config)
    assert isinstance(model, DiTConfig)
    return model, config


def named_tensors(
    checkpoint: Place, kind: str
) -> tuple[list[str], Callable[[str], np.ndarray], ModelConfig]:
    """Returns a checkpoint's unstacked names, a reader as stored, and model settings.

    Raises:
        UserError: as `load_dit`.
    """
    if kind == "dit" and is_training_folder(checkpoint):
        loaded = load_dit(checkpoint)
        tensors = unstack(loaded.params)
        return list(tensors), tensors.__getitem__, loaded.model
    folder = fetched(checkpoint / kind)
    model = model_config(folder, read_config(folder, kind))
    stored = open_folder(folder, abstract_params(model))
    return list(stored), lambda name: stored[name][()], model


@contextlib.contextmanager
def vae_as_folder(folder: Place) -> Iterator[tuple[Path, str]]:
    """Yields a VAE's model folder and its hash; a training folder's is temporary.

    Raises:
        UserError: as `load_vae`.
    """
    if not is_training_folder(folder):
        read_config(folder, "vae")
        copy = fetched(folder)
        yield copy, sha256_of_folder(copy)
        return
    loaded = load_vae(folder)
    with tempfile.TemporaryDirectory() as temporary:
        exported = Path(temporary) / "vae"
        save_folder(exported, loaded.params, loaded.config)
        yield exported, sha256_of_folder(exported)

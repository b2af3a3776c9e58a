"""Fine-tuning: a transformer's training that starts from a folder's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from data_pipelines import records
from data_pipelines.dataset import Dataset, check_vae
from soraxla.checkpoints.load import load_transformer, load_vae
from soraxla.checkpoints.model_folder import LoadedModel, sha256_of_folder
from soraxla.core.config import build, to_dict
from soraxla.core.errors import UserError
from soraxla.diffusion.process import Process
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.dit.config import DiTConfig
from soraxla.parallel.mesh import host_mesh

# These settings change how a model is computed; its folder fixes all others.
_FREE = ("dtype", "remat")
# A model without these layers may gain them, because they start by adding nothing.
_ADDABLE = ("local_layers", "forecast_layers")


@dataclass(frozen=True, kw_only=True)
class Start:
    """The model that a training starts from, on the host, and its folder."""

    folder: Path
    dit: LoadedModel

    def record(self) -> dict[str, str]:
        """Returns the record of a training folder; another start is refused."""
        return {
            "folder": str(self.folder.resolve()),
            "sha256": sha256_of_tree(self.dit.params),
        }


def open_start(folder: Path) -> Start:
    """Loads a folder of `soraxla import`, `export` or `train`, of the last the EMA.

    Every host loads the whole of it.

    Raises:
        UserError: see `load_transformer`.
    """
    # The training copies the weights to the devices, which have no room for two.
    with jax.set_mesh(host_mesh()):
        loaded = load_transformer(folder)
        params = jax.device_get(loaded.params)
    return Start(folder=folder, dit=replace(loaded, params=params))


def settings_of(config: Mapping[str, Any], start: Start | None) -> dict[str, Any]:
    """Returns the configuration with the model and the process of the folder.

    `step.model.dtype` and `step.model.remat` may differ, and so may local and forecast
    layers if the folder's model has none of them and all weights are trained. Other
    settings of the model must be equal to the folder's.

    Raises:
        UserError: an unknown setting, one that the folder contradicts, or no model to
            start from where there must be one.
    """
    step = _group(config, "step")
    if start is None:
        if needs_start(config):
            raise UserError(
                "the configuration fine-tunes a model; name its folder with --init"
            )
        return dict(config)
    found = {"model": to_dict(start.dit.model), "process": start.dit.config["process"]}
    made, free = {}, _FREE
    if step.get("lora") is None:
        lacks = tuple(name for name in _ADDABLE if not found["model"][name])
        free += (*lacks, "local_width") if lacks == _ADDABLE else lacks
    for part, cls in (("model", DiTConfig), ("process", Process)):
        stated = _group(step, part)
        made[part] = to_dict(build(cls, {**found[part], **stated}, f"step.{part}."))
        for name, value in made[part].items():
            if value != found[part][name] and name not in free:
                raise UserError(
                    f"setting 'step.{part}.{name}' is {value!r}, but {start.folder} "
                    f"has {found[part][name]!r}; leave it out, the folder has it"
                )
    return {**config, "step": {**step, **made}}


def needs_start(config: Mapping[str, Any]) -> bool:
    """Returns whether a transformer's configuration fine-tunes a model."""
    step = _group(config, "step")
    return step.get("lora") is not None or not _group(step, "model").get("layers")


def _group(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    group = config.get(key, {})
    if not isinstance(group, Mapping):
        raise UserError(f"setting {key!r} is {group!r}, expected a group of keys")
    return group


def check_start(start: Start, dataset: Dataset) -> None:
    """Raises UserError unless the dataset was made by the model's encoder and VAE.

    The kind of the encoder is compared, since its folder may be anywhere, and the
    weights of the VAE if the transformer's folder holds one. Its decoder may be another
    than that of the dataset's VAE.
    """
    expected, found = start.dit.config["text_encoder"], dataset.card["text_encoder"]
    if expected.partition(":")[0] != found.partition(":")[0]:
        raise UserError(
            f"{dataset.path}: was prepared with the text encoder {found!r}, but "
            f"{start.folder} reads {expected!r}; prepare it again with that one"
        )
    vae, made_by = start.folder / "vae", dataset.path / records.VAE
    if vae.is_dir() and not _same_latents(vae, made_by, dataset.card["vae_sha256"]):
        check_vae(dataset, sha256_of_folder(vae))


def _same_latents(vae: Path, made_by: Path, recorded: str) -> bool:
    """Returns whether a VAE encodes clips as the dataset's, which has this hash."""
    if not made_by.is_dir() or sha256_of_folder(made_by) != recorded:
        return False
    a, b = load_vae(vae), load_vae(made_by)
    return a.model == b.model and (
        sha256_of_tree(a.params["encoder"]) == sha256_of_tree(b.params["encoder"])
    )

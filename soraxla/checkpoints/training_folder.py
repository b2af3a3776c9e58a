"""Training folders as other code reads them: `train.json`, and a checkpoint's EMA.

A training folder holds `train.json` (the settings), `checkpoints/` (Orbax: the whole
state and the position in the data) and, for a transformer, its dataset's `vae/`.
Readers restore the EMA only; its shapes follow from the settings.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from soraxla.checkpoints.model_folder import (
    LoadedModel,
    abstract_params,
    rules_of,
)
from soraxla.checkpoints.usage import (
    RECORDED,
    GenerationDefaults,
    Usage,
    trained_usage,
    usage_of,
)
from soraxla.core.config import build, to_dict
from soraxla.core.errors import UserError
from soraxla.core.older_settings import filled, upgraded
from soraxla.core.paths import Place, is_remote, place
from soraxla.core.trees import named_leaves
from soraxla.files.checksums import CHECKSUMS, verify
from soraxla.files.hashing import sha256_of_tree
from soraxla.models import dit
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.dit import lora
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.lora import LoRAConfig
from soraxla.models.dit.sharding import trained_rules
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.statistics import latent_statistics
from soraxla.packing.conditioning import ConditioningMixture, trained_tasks
from soraxla.parallel.mesh import REPLICATED, Rules, current_shardings, with_shardings

C = TypeVar("C")

CHECKPOINTS = "checkpoints"
SETTINGS = "train.json"


def is_training_folder(folder: Place) -> bool:
    """Returns whether `soraxla train` wrote the folder."""
    return (folder / SETTINGS).exists()


def read_settings(folder: Place) -> dict[str, Any]:
    """Returns the settings that a training folder was trained with.

    Raises:
        UserError: the folder is not a training folder, or its record is damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(
            f"{folder}: not a training folder, {SETTINGS} is missing; give the folder "
            "that `soraxla train` wrote"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); restore it from a copy") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: damaged, not settings; restore it from a copy")
    return upgraded(settings)


def settings_of_kind(folder: Place, kind: str) -> dict[str, Any]:
    """Returns the settings of a training folder that trains a `kind` of model.

    Raises:
        UserError: it trains another kind, or its record is damaged.
    """
    settings = read_settings(folder)
    if settings.get("kind") != kind:
        raise UserError(
            f"{folder}: trains a {settings.get('kind')}, expected a {kind}; give the "
            "other folder"
        )
    if not isinstance(settings.get("step"), dict):
        raise UserError(
            f"{folder / SETTINGS}: damaged, 'step' is missing; copy it again"
        )
    return settings


def _model(cls: type[C], step: dict[str, Any]) -> C:
    """Returns the model of a training's `step`, which may lack newer settings."""
    return build(cls, filled(cls, step.get("model", {})), "step.model.")


def trained_vae(folder: Place) -> LoadedModel:
    """Returns the EMA of a VAE's training, with the statistics of its latents.

    Raises:
        UserError: see `settings_of_kind` and `restore_part`.
    """
    step = settings_of_kind(folder, "vae")["step"]
    model = _model(VAEConfig, step)
    moment = jax.ShapeDtypeStruct((model.latent_channels,), jnp.float32)
    part = {
        "ema": abstract_params(model),
        "extra": {"mean": moment, "square": moment},
    }
    state = restore_part(folder, part, REPLICATED)
    if step.get("train", "all") == "all":  # else they are those of the start
        mean, std = latent_statistics(state["extra"])
        model = dataclasses.replace(model, latent_mean=mean, latent_std=std)
    config = {"kind": "vae", "model": to_dict(model)}
    return LoadedModel(params=state["ema"], model=model, config=config)


def trained_captioner(folder: Place) -> LoadedModel:
    """Returns the EMA of a captioner's training.

    Raises:
        UserError: see `settings_of_kind` and `restore_part`.
    """
    model = _model(CaptionerConfig, settings_of_kind(folder, "captioner")["step"])
    part = {"ema": abstract_params(model)}
    state = restore_part(folder, part, rules_of(model))
    config = {"kind": "captioner", "model": to_dict(model)}
    return LoadedModel(params=state["ema"], model=model, config=config)


def trained_dit(
    folder: Place, *, load_base: Callable[[Place], LoadedModel], computed: bool = False
) -> LoadedModel:
    """Returns the EMA of a transformer's training; adapters are merged into their base.

    Args:
        load_base: returns the model of the folder that adapters were trained on.
        computed: see `abstract_params`.

    Raises:
        UserError: see `settings_of_kind` and `restore_part`; or the base of the
            adapters is missing or another one.
    """
    settings = settings_of_kind(folder, "dit")
    model, adapters, ema = trained_ema(folder, settings, computed=computed)
    base = None if adapters is None else _base(folder, settings, load_base)
    config = trained_config(settings, base and usage_of(base.config, base.model))
    params = lora.merged(ema, base and base.params, adapters)
    if computed and adapters is not None:  # a product is added in float32
        params = dit.cast_kernels(params, model)
    return LoadedModel(params=params, model=model, config=config)


def trained_config(settings: dict[str, Any], base: Usage | None) -> dict[str, Any]:
    """Returns the `config.json` of the transformer that a training folder trains.

    Args:
        base: the usage of the base of adapters, for folders that do not record their
            own; None if there are no adapters.

    Raises:
        UserError: a wrong setting.
    """
    step = settings["step"]
    return {
        "kind": "dit",
        "model": to_dict(build(DiTConfig, step.get("model", {}), "step.model.")),
        "process": step["process"],
        "text_encoder": settings["text_encoder"],
        **_recorded_usage(settings, base),
    }


def records_usage(settings: dict[str, Any]) -> bool:
    """Returns whether a training folder records the usage of its model."""
    return "generation_defaults" in settings


def _recorded_usage(settings: dict[str, Any], base: Usage | None) -> dict[str, Any]:
    if records_usage(settings):
        return {name: settings[name] for name in RECORDED if name in settings}
    longest, pack = settings["max_latent_frames"], settings.get("pack", {})
    if base is None and (not pack or "init" in settings):
        return {"max_latent_frames": longest}  # the rest is not known
    mixture = build(ConditioningMixture, pack.get("mixture", {}), "pack.mixture.")
    return trained_usage(
        base,
        longest=longest,
        tasks=trained_tasks(mixture, pack.get("next_share", 0.0)),
        median=GenerationDefaults(),
    ).record()


def trained_ema(
    folder: Place, settings: dict[str, Any], *, computed: bool = False
) -> tuple[DiTConfig, LoRAConfig | None, PyTree]:
    """Returns (model, LoRA settings or None, EMA) of a transformer's training.

    With LoRA the EMA is the adapters', in float32.

    Args:
        computed: see `abstract_params`.

    Raises:
        UserError: a wrong setting; see `restore_part`.
    """
    step = settings["step"]
    model = _model(DiTConfig, step)
    adapters = None
    abstract = abstract_params(model, computed=computed)
    if step.get("lora") is not None:
        adapters = build(LoRAConfig, step["lora"], "step.lora.")
        abstract = jax.eval_shape(
            lambda: lora.init(jax.random.key(0), abstract_params(model), adapters)
        )
    state = restore_part(folder, {"ema": abstract}, trained_rules(adapters))
    return model, adapters, state["ema"]


def _base(
    folder: Place, settings: dict[str, Any], load_base: Callable[[Place], LoadedModel]
) -> LoadedModel:
    """Returns the frozen model that a training folder's adapters add to."""
    init = settings.get("init")
    if not isinstance(init, dict) or not {"folder", "sha256"} <= init.keys():
        raise UserError(
            f"{folder / SETTINGS}: damaged, 'init' of its adapters is missing; copy "
            "it again"
        )
    start = place(init["folder"])
    try:
        base = load_base(start)
    except UserError as error:
        raise UserError(f"the base of the adapters in {folder}: {error}") from error
    found, expected = sha256_of_tree(base.params), init["sha256"]
    if found != expected:
        raise UserError(
            f"{start}: is not the model that the adapters in {folder} were trained on "
            f"(SHA-256 {expected[:12]}…, this one is {found[:12]}…); put the base back "
            f"or its place in init.folder of {folder / SETTINGS}"
        )
    return base


def restore_part(folder: Place, abstract: dict[str, PyTree], rules: Rules) -> Any:
    """Returns some items of the newest state, such as `{"ema": …}`, sharded by rules.

    Only these items are read.

    Args:
        abstract: shapes and types of the items.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it is of another model.
    """
    check_path(folder)
    manager = ocp.CheckpointManager(
        checkpoints_of(folder),
        options=ocp.CheckpointManagerOptions(read_only=True),
        item_handlers={"state": ocp.PyTreeCheckpointHandler()},
    )
    placed = with_shardings(abstract, current_shardings(abstract, rules))
    with contextlib.closing(manager):
        step = newest_step(manager, folder)
        with restoring(folder, step):
            check_shapes(manager, step, abstract)
            target = jax.tree.map(on_a_device, placed)
            args = ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            )
            return manager.restore(step, args=ocp.args.Composite(state=args))["state"]


def verify_newest(folder: Place) -> None:
    """Verifies all bytes of a local training folder's newest checkpoint.

    An object store keeps checksums by itself.

    Raises:
        UserError: they are not those that were written.
    """
    if is_remote(folder):
        return
    names = [path.name for path in (folder / CHECKPOINTS).glob("*")]
    steps = [int(name) for name in names if name.isdecimal()]
    if steps:
        with restoring(folder, max(steps)):
            verify(folder / CHECKPOINTS / str(max(steps)), folder / CHECKSUMS)


def checkpoints_of(folder: Place) -> Any:
    """Returns the path of a training folder's checkpoints for Orbax.

    Raises:
        UserError: Orbax does not write to this object store.
    """
    place = folder.resolve() / CHECKPOINTS
    if not is_remote(place):
        return place
    if not str(place).startswith("gs://"):
        raise UserError(
            f"{folder}: training folders are local or in gs:// buckets; mount this "
            "one, and give the path below the mount"
        )
    return epath.Path(str(place))


def check_path(folder: Place) -> None:
    """Raises UserError for a path in which Orbax would look for other files."""
    for char in "[]*?\\":
        if char in str(folder.resolve()):
            raise UserError(
                f"{folder.resolve()}: has {char!r} in its path, so its checkpoints "
                "could not be restored; rename the folder"
            )


def newest_step(manager: ocp.CheckpointManager, folder: Place) -> int:
    """Returns the step of the newest complete checkpoint.

    Raises:
        UserError: there is none.
    """
    step = manager.latest_step()
    if step is None:
        raise UserError(
            f"{folder / CHECKPOINTS}: no whole checkpoint; train first, or name "
            "another folder"
        )
    return step


@contextlib.contextmanager
def restoring(folder: Place, step: int) -> Iterator[None]:
    """Turns any exception of a restore into one UserError that names the checkpoint."""
    checkpoint = folder / CHECKPOINTS / str(step)
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many types
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise UserError(
            f"{checkpoint}: cannot be restored, it is damaged or "
            f"of another configuration ({reason}); remove it to use the previous "
            "checkpoint"
        ) from error


def check_shapes(manager: ocp.CheckpointManager, step: int, abstract: PyTree) -> None:
    """Raises UserError unless a checkpoint has the leaves of `abstract`.

    Orbax refuses other shapes too, but with pages of output.
    """
    found = named_leaves(manager.item_metadata(step)["state"])
    for name, leaf in named_leaves(abstract).items():
        if name not in found:
            raise UserError(f"{name!r} is missing")
        if tuple(found[name].shape) != leaf.shape:
            raise UserError(
                f"{name!r} is {tuple(found[name].shape)}, expected {leaf.shape}"
            )


def on_a_device(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns the leaf's shape with its sharding, or else on the first device."""
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

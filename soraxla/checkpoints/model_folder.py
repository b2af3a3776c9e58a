"""Weights at rest: a folder of safetensors, one file a block, and a `config.json`.

Names are the paths of our own parameter tree. Stacked blocks are stored one by one
(`blocks.0.mlp…`), so that a file is a layer whatever the model's depth.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save_file
from tqdm import tqdm

from soraxla.core.config import build, to_dict
from soraxla.core.trees import (
    STACKED,
    is_stacked,
    named_leaves,
    sha256_of_tree,
    unstacked,
)
from soraxla.files.tensor_files import (
    SUFFIX,
    Stored,
    check_tensors,
    load_tensors,
    open_tensors,
)
from soraxla.models import dit, vae
from soraxla.models.dit.config import DiTConfig
from soraxla.parallel.mesh import WHOLE, Rules, set_shardings, with_shardings
from soraxla.training.saving import SETTINGS, Checkpoints, read_settings
from soraxla.training.steps import (
    DiTStepConfig,
    VAEStepConfig,
    dit_init,
    dit_params,
    dit_rules,
    latent_statistics,
    vae_init,
)

FORMAT = 1
CONFIG = "config.json"
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
_KEYS = {
    "vae": {"model": dict},
    "dit": {"model": dict, "process": dict, "text_encoder": str},
}


def save_folder(
    folder: Path, params: PyTree, config: dict[str, Any], *, dtype: str = "float32"
) -> None:
    """Writes parameters and their config, by `write_folder`.

    Raises:
        ValueError: the folder exists, or `dtype` is unknown.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    tensors = _unstack(params)
    write_folder(
        folder, tensors, lambda n: tensors[n].astype(DTYPES[dtype], copy=False), config
    )


def _unstack(params: PyTree) -> dict[str, np.ndarray]:
    """Views of the parameters under the names they are stored by."""
    named = {}
    for top, leaf in named_leaves(jax.device_get(params)).items():
        parts = leaf if is_stacked(top) else leaf[None]
        named |= zip(unstacked(top, leaf.shape), parts, strict=True)
    return named


def write_folder(
    folder: Path,
    names: Iterable[str],
    read: Callable[[str], np.ndarray],
    config: dict[str, Any],
) -> None:
    """Writes the folder under a temporary name, then renames it; one file in memory.

    Args:
        names: of the tensors, unstacked.
        read: a tensor by name.

    Raises:
        ValueError: the folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder}: exists; remove it or choose another name")
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        files[_file_of(name)].append(name)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for stem, members in tqdm(files.items(), unit="file", disable=len(files) < 8):
            tensors = {name: np.ascontiguousarray(read(name)) for name in members}
            save_file(tensors, temporary / f"{stem}{SUFFIX}")
        written = {"format": FORMAT} | config | {"format": FORMAT}  # ours, and first
        text = json.dumps(written, indent=2) + "\n"
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _file_of(name: str) -> str:
    top, _, rest = name.partition(".")
    if top == STACKED:
        return f"block_{int(rest.partition('.')[0]):03d}"
    return top if top in ("encoder", "decoder") else "stem"


def load_folder(folder: Path, abstract: PyTree, rules: Rules) -> PyTree:
    """Parameters shaped as `abstract` (from `jax.eval_shape` of the init).

    Raises:
        ValueError: a file is damaged; tensors are missing, unexpected, mis-shaped or
            no floats.
    """
    stored = _open(folder, abstract)
    return load_tensors(stored.__getitem__, abstract, set_shardings(abstract, rules))


def _open(folder: Path, abstract: PyTree) -> dict[str, Stored]:
    tensors = open_tensors(sorted(folder.glob(f"*{SUFFIX}")))
    expected = {
        name: leaf.shape[1:] if is_stacked(top) else leaf.shape
        for top, leaf in named_leaves(abstract).items()
        for name in unstacked(top, leaf.shape)
    }
    check_tensors(tensors, expected, folder)
    return tensors


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        ValueError: missing, damaged, of a newer format, or not of this kind.
    """
    path = folder / CONFIG
    if not path.is_file():
        missing = f"{CONFIG} is" if folder.is_dir() else "the folder is"
        raise ValueError(
            f"{folder}: no {kind} weights here, {missing} missing; give a folder "
            "that `soraxla import`, `export` or `train` wrote"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found, written = config["kind"], int(config["format"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: damaged ({reason}); copy it again") from error
    if found != kind or written > FORMAT:
        raise ValueError(
            f"{path}: holds {found!r} of format {written}, expected {kind!r} of format "
            f"{FORMAT} or older; give another folder or update soraxla"
        )
    for key, expected in _KEYS[kind].items():
        if not isinstance(config.get(key), expected):
            raise ValueError(f"{path}: damaged, it has no {key!r}; copy it again")
    return config


def sha256_of_folder(folder: Path) -> str:
    """One hash of the names and bytes of a weights folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if _is_weight_file(p)):
        digest.update(path.name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _is_weight_file(path: Path) -> bool:
    return path.name == CONFIG or path.suffix == SUFFIX


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to run: parameters, settings, and what its config says beside."""

    params: PyTree
    model: Any
    config: dict[str, Any]


def load_vae(folder: Path) -> LoadedModel:
    """The VAE of a weights folder or of a training folder (its EMA).

    Raises:
        ValueError: see `load_folder`, `read_config`, `Checkpoints.restore`.
    """
    if (folder / SETTINGS).exists():
        return from_training(folder, "vae", _trained_vae)
    config = read_config(folder, "vae")
    model = _settings(vae.VAEConfig, config, folder)
    params = load_folder(folder, abstract_params(model), WHOLE)
    return LoadedModel(params=params, model=model, config=config)


def load_dit(folder: Path) -> LoadedModel:
    """The diffusion transformer of a weights or training folder; as `load_vae`."""
    if (folder / SETTINGS).exists():
        return from_training(folder, "dit", _trained_dit)
    config = read_config(folder, "dit")
    model = _settings(DiTConfig, config, folder)
    params = load_folder(folder, abstract_params(model), dit.RULES)
    return LoadedModel(params=params, model=model, config=config)


def load_transformer(checkpoint: Path) -> LoadedModel:
    """That of a training folder, or the `dit` of an imported or exported folder.

    Raises:
        ValueError: as `load_dit`.
    """
    training = (checkpoint / SETTINGS).exists()
    return load_dit(checkpoint if training else checkpoint / "dit")


def named_tensors(
    checkpoint: Path, kind: str
) -> tuple[list[str], Callable[[str], np.ndarray], Any]:
    """Names, unstacked, a reader as stored, and the settings of a checkpoint's model.

    Raises:
        ValueError: as `load_dit`.
    """
    training = kind == "dit" and (checkpoint / SETTINGS).exists()
    if training:
        loaded = load_dit(checkpoint)
        tensors = _unstack(loaded.params)
        return list(tensors), tensors.__getitem__, loaded.model
    folder = checkpoint / kind
    config = read_config(folder, kind)
    model = _settings(DiTConfig if kind == "dit" else vae.VAEConfig, config, folder)
    stored = _open(folder, abstract_params(model))
    return list(stored), lambda name: stored[name][()], model


def abstract_params(model: DiTConfig | vae.VAEConfig) -> PyTree:
    """Shapes and types of a model's parameters, stacked."""
    module: Any = dit if isinstance(model, DiTConfig) else vae
    return jax.eval_shape(lambda: module.init(jax.random.key(0), model))


def _settings(cls: type, config: dict[str, Any], folder: Path) -> Any:
    try:
        return build(cls, config["model"], "model.")
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error


def from_training(folder: Path, kind: str, read: Callable) -> Any:
    """`read(folder, settings)` of a training folder, refused if of another kind."""
    settings = read_settings(folder)
    if settings.get("kind") != kind:
        raise ValueError(
            f"{folder}: trains a {settings.get('kind')}, expected a {kind}; give the "
            "other folder"
        )
    if not isinstance(settings.get("step"), dict):
        raise ValueError(
            f"{folder / SETTINGS}: damaged, it has no 'step'; copy it again"
        )
    return read(folder, settings)


def _trained_vae(folder: Path, settings: dict[str, Any]) -> LoadedModel:
    step = build(VAEStepConfig, settings["step"], "step.")
    state = restore_state(folder, lambda: vae_init(step), WHOLE)
    mean, std = latent_statistics(state.extra)
    model = dataclasses.replace(step.model, latent_mean=mean, latent_std=std)
    config = {"kind": "vae", "model": to_dict(model)}
    return LoadedModel(params=state.ema, model=model, config=config)


def _trained_dit(folder: Path, settings: dict[str, Any]) -> LoadedModel:
    step = build(DiTStepConfig, settings["step"], "step.")
    base = None if step.lora is None else _base(folder, settings)
    state = restore_state(folder, lambda: dit_init(step), dit_rules(step))
    config = {
        "kind": "dit",
        "model": to_dict(step.model),
        "process": settings["step"]["process"],
        "text_encoder": settings["text_encoder"],
        "max_latent_frames": settings["max_latent_frames"],
    }
    params = dit_params(state.ema, base, step)
    return LoadedModel(params=params, model=step.model, config=config)


def _base(folder: Path, settings: dict[str, Any]) -> PyTree:
    """The frozen parameters that a training folder's adapters add to."""
    init = settings.get("init")
    if not isinstance(init, dict) or not {"folder", "sha256"} <= init.keys():
        raise ValueError(
            f"{folder / SETTINGS}: damaged, its adapters have no 'init'; copy it again"
        )
    start = Path(init["folder"])
    try:
        params = load_transformer(start).params
    except ValueError as error:
        raise ValueError(f"the base of the adapters in {folder}: {error}") from error
    found, expected = sha256_of_tree(params), init["sha256"]
    if found != expected:
        raise ValueError(
            f"{start}: is not what the adapters in {folder} were trained on (SHA-256 "
            f"{expected[:12]}…, this one is {found[:12]}…); put the base back, or its "
            f"place in init.folder of {folder / SETTINGS}"
        )
    return params


def restore_state(folder: Path, init: Callable, rules: Rules) -> Any:
    """The newest state of a training folder; `init` gives its shapes."""
    checkpoints, abstract = Checkpoints(folder), jax.eval_shape(init)
    try:
        placed = with_shardings(abstract, set_shardings(abstract, rules))
        return checkpoints.restore(placed)[0]
    finally:
        checkpoints.close()


@contextlib.contextmanager
def vae_as_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    """A VAE's weights folder and its hash; exported for a while if in training."""
    if not (folder / SETTINGS).exists():
        read_config(folder, "vae")
        yield folder, sha256_of_folder(folder)
        return
    loaded = load_vae(folder)
    with tempfile.TemporaryDirectory() as temporary:
        exported = Path(temporary) / "vae"
        save_folder(exported, loaded.params, loaded.config)
        yield exported, sha256_of_folder(exported)

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from soraxla.checkpoint import SETTINGS, Checkpoints, read_settings
from soraxla.models import vae
from soraxla.models.config import DiTConfig
from soraxla.settings import build, to_dict
from soraxla.training.steps import (
    DiTStep,
    VAEStep,
    dit_init,
    latent_statistics,
    vae_init,
)
from soraxla.trees import named_leaves, nested

FORMAT = 1
CONFIG = "config.json"
STACKED = "blocks"
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
_KEYS = {
    "vae": {"model": dict},
    "dit": {"model": dict, "process": dict, "text_encoder": str},
}


def save_folder(
    folder: Path, params: PyTree, config: dict[str, Any], *, dtype: str = "float32"
) -> None:
    """Writes the folder under a temporary name, then renames it.

    Raises:
        ValueError: the folder exists, or `dtype` is unknown.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    if folder.exists():
        raise ValueError(f"{folder}: exists; remove it or choose another name")
    files: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, leaf in named_leaves(jax.device_get(params)).items():
        top, _, rest = name.partition(".")
        if top == STACKED:
            for i, part in enumerate(leaf):
                files[f"block_{i:03d}"][f"{STACKED}.{i}.{rest}"] = part
        else:
            group = top if top in ("encoder", "decoder") else "stem"
            files[group][name] = leaf
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for stem, tensors in files.items():
        cast = {k: np.asarray(v, DTYPES[dtype], order="C") for k, v in tensors.items()}
        save_file(cast, temporary / f"{stem}.safetensors")
    written = {"format": FORMAT} | config | {"format": FORMAT}  # ours, and first
    text = json.dumps(written, indent=2) + "\n"
    (temporary / CONFIG).write_text(text, encoding="utf-8")
    temporary.rename(folder)


def load_folder(folder: Path, abstract: PyTree) -> PyTree:
    """Parameters, fp32, shaped as `abstract` (from `jax.eval_shape` of the init).

    Raises:
        ValueError: a file is damaged; tensors are missing, unexpected or mis-shaped.
    """
    named = _read_tensors(folder)
    params = {}
    for name, leaf in named_leaves(abstract).items():
        top, _, rest = name.partition(".")
        if top == STACKED:
            layers = [
                _take(named, f"{STACKED}.{i}.{rest}", leaf.shape[1:], folder)
                for i in range(leaf.shape[0])
            ]
            params[name] = jnp.asarray(np.stack(layers))
        else:
            params[name] = jnp.asarray(_take(named, name, leaf.shape, folder))
    if named:
        raise ValueError(
            f"{folder}: {len(named)} unexpected tensors, such as {min(named)!r}; the "
            f"weights are of another model than {CONFIG} says"
        )
    return nested(params)


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    named[name] = tensors.get_tensor(name).astype(np.float32)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path}: not a whole safetensors file ({error}); copy it again"
            ) from error
    return named


def _take(named: dict, name: str, shape: tuple[int, ...], folder: Path) -> np.ndarray:
    if name not in named:
        raise ValueError(
            f"{folder}: tensor {name!r} is missing; the folder is incomplete or of "
            f"another model than its {CONFIG} says"
        )
    if named[name].shape != tuple(shape):
        raise ValueError(
            f"{folder}: tensor {name!r} has shape {named[name].shape}, expected "
            f"{tuple(shape)}; the weights are of another model than {CONFIG} says"
        )
    return named.pop(name)


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        ValueError: missing, damaged, of a newer format, or not of this kind.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(
            f"{folder}: no {kind} weights here, {CONFIG} is missing; give a folder "
            "that `soraxla export` or `soraxla train` wrote"
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
    return path.name == CONFIG or path.suffix == ".safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run: parameters, settings, and what its config says beside."""

    params: PyTree
    model: Any
    config: dict[str, Any]


def load_vae(folder: Path) -> Loaded:
    """The VAE of a weights folder or of a training folder (its EMA).

    Raises:
        ValueError: see `load_folder`, `read_config`, `Checkpoints.restore`.
    """
    if (folder / SETTINGS).exists():
        return _from_training(folder, "vae", _trained_vae)
    config = read_config(folder, "vae")
    model = _settings(vae.VAEConfig, config, folder)
    abstract = jax.eval_shape(lambda: vae.init(jax.random.key(0), model))
    return Loaded(params=load_folder(folder, abstract), model=model, config=config)


def load_dit(folder: Path) -> Loaded:
    """The diffusion transformer of a weights or training folder; as `load_vae`."""
    if (folder / SETTINGS).exists():
        return _from_training(folder, "dit", _trained_dit)
    config = read_config(folder, "dit")
    model = _settings(DiTConfig, config, folder)
    step = DiTStep(model=model)
    abstract = jax.eval_shape(lambda: dit_init(step).params)
    return Loaded(params=load_folder(folder, abstract), model=model, config=config)


def _settings(cls: type, config: dict[str, Any], folder: Path) -> Any:
    try:
        return build(cls, config["model"], "model.")
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error


def _from_training(folder: Path, kind: str, read: Callable) -> Loaded:
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


def _trained_vae(folder: Path, settings: dict[str, Any]) -> Loaded:
    step = build(VAEStep, settings["step"], "step.")
    state = _restore(folder, lambda: vae_init(step))
    mean, std = latent_statistics(state.extra)
    model = dataclasses.replace(step.model, latent_mean=mean, latent_std=std)
    config = {"kind": "vae", "model": to_dict(model)}
    return Loaded(params=state.ema, model=model, config=config)


def _trained_dit(folder: Path, settings: dict[str, Any]) -> Loaded:
    step = build(DiTStep, settings["step"], "step.")
    state = _restore(folder, lambda: dit_init(step))
    config = {
        "kind": "dit",
        "model": to_dict(step.model),
        "process": settings["step"]["process"],
        "text_encoder": settings["text_encoder"],
    }
    return Loaded(params=state.ema, model=step.model, config=config)


def _restore(folder: Path, init: Callable) -> Any:
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(jax.eval_shape(init))[0]
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

"""Model folders: safetensors, one file per block, and a `config.json`.

Names are the paths of our parameter tree. Stacked blocks are stored one by one
(`blocks.0.mlp…`), so a file holds one layer at any depth of the model.
"""

import dataclasses
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jaxtyping import PyTree
from tqdm import tqdm

from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.core.paths import Place
from soraxla.core.trees import STACKED, is_stacked, named_leaves, unstacked
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import save_tensors
from soraxla.files.hashing import sha256_of_files
from soraxla.files.tensor_files import (
    SUFFIX,
    StoredTensor,
    check_tensors,
    load_tensors,
    open_tensors,
    weight_files,
)
from soraxla.models import captioner, dit, vae
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.dit.config import DiTConfig
from soraxla.models.vae.model import VAEConfig
from soraxla.parallel.mesh import REPLICATED, Rules, current_shardings

FORMAT = 1
CONFIG = "config.json"
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
_KEYS = {
    "vae": {"model": dict},
    "dit": {"model": dict, "process": dict, "text_encoder": str},
    "captioner": {"model": dict},
}
_CLASSES = {"vae": VAEConfig, "dit": DiTConfig, "captioner": CaptionerConfig}
ModelConfig = DiTConfig | VAEConfig | CaptionerConfig


def save_folder(
    folder: Place, params: PyTree, config: dict[str, Any], *, dtype: str = "float32"
) -> None:
    """Writes parameters and their config, by `write_folder`.

    Raises:
        UserError: the folder exists, or `dtype` is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    tensors = unstack(params)
    write_folder(
        folder, tensors, lambda n: tensors[n].astype(DTYPES[dtype], copy=False), config
    )


def unstack(params: PyTree) -> dict[str, np.ndarray]:
    """Returns views of the parameters under their stored names."""
    named = {}
    for top, leaf in named_leaves(jax.device_get(params)).items():
        parts = leaf if is_stacked(top) else leaf[None]
        named |= zip(unstacked(top, leaf.shape), parts, strict=True)
    return named


def write_folder(
    folder: Place,
    names: Iterable[str],
    read: Callable[[str], np.ndarray],
    config: dict[str, Any],
) -> None:
    """Writes a model folder atomically, with one file in memory at a time.

    Args:
        names: of the tensors, unstacked.
        read: returns a tensor by name.

    Raises:
        UserError: the folder exists.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        files[_file_of(name)].append(name)
    with atomic_folder(folder) as partial:
        for stem, members in tqdm(files.items(), unit="file", disable=len(files) < 8):
            tensors = {name: np.ascontiguousarray(read(name)) for name in members}
            save_tensors(tensors, partial / f"{stem}{SUFFIX}")
        written = (
            {"format": FORMAT} | config | {"format": FORMAT}
        )  # the first key, and never the caller's
        text = json.dumps(written, indent=2) + "\n"
        (partial / CONFIG).write_text(text, encoding="utf-8")


def _file_of(name: str) -> str:
    top, _, rest = name.partition(".")
    if top == STACKED:
        return f"block_{int(rest.partition('.')[0]):03d}"
    return top if top in ("encoder", "decoder") else "stem"


def load_folder(folder: Path, abstract: PyTree, rules: Rules) -> PyTree:
    """Loads parameters shaped as `abstract` (from `jax.eval_shape` of the init).

    Raises:
        UserError: a file is damaged; tensors are missing, unexpected, mis-shaped or not
            floats.
    """
    stored = open_folder(folder, abstract)
    return load_tensors(
        stored.__getitem__, abstract, current_shardings(abstract, rules)
    )


def open_folder(folder: Path, abstract: PyTree) -> dict[str, StoredTensor]:
    tensors = open_tensors(weight_files(folder))
    expected = {
        name: leaf.shape[1:] if is_stacked(top) else leaf.shape
        for top, leaf in named_leaves(abstract).items()
        for name in unstacked(top, leaf.shape)
    }
    check_tensors(tensors, expected, folder)
    return tensors


def read_config(folder: Place, kind: str) -> dict[str, Any]:
    """Returns the folder's `config.json`.

    Raises:
        UserError: it is missing, damaged, of a newer format, or of another kind.
    """
    path = folder / CONFIG
    if not path.is_file():
        missing = f"{CONFIG} is" if folder.is_dir() else "the folder is"
        raise UserError(
            f"{folder}: no {kind} weights here, {missing} missing; give a folder "
            "that `soraxla import`, `export` or `train` wrote"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found, written = config["kind"], int(config["format"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: damaged ({reason}); copy it again") from error
    if found != kind or written > FORMAT:
        raise UserError(
            f"{path}: holds {found!r} of format {written}, expected {kind!r} of format "
            f"{FORMAT} or older; give another folder or update soraxla"
        )
    for key, expected in _KEYS[kind].items():
        if not isinstance(config.get(key), expected):
            raise UserError(f"{path}: damaged, {key!r} is missing; copy it again")
    return config


def sha256_of_folder(folder: Path) -> str:
    """Returns one hash of the names and bytes of a model folder's files."""
    return sha256_of_files(p for p in folder.iterdir() if _is_weight_file(p))


def _is_weight_file(path: Path) -> bool:
    hidden = path.name.startswith(".")  # macOS leaves ._NAME beside a file
    return path.name == CONFIG or (path.suffix == SUFFIX and not hidden)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in memory: parameters, settings, and the rest of its `config.json`."""

    params: PyTree
    model: Any  # ModelConfig
    config: dict[str, Any]


def load_model(folder: Path, kind: str, *, computed: bool = False) -> LoadedModel:
    """Loads the `kind`, "vae", "dit" or "captioner", of a model folder.

    Args:
        computed: see `abstract_params`.

    Raises:
        UserError: as `load_folder` and `read_config`.
    """
    config = read_config(folder, kind)
    model = model_config(folder, config)
    abstract = abstract_params(model, computed=computed)
    params = load_folder(folder, abstract, rules_of(model))
    return LoadedModel(params=params, model=model, config=config)


def rules_of(model: ModelConfig) -> Rules:
    """Returns the sharding of a model's parameters."""
    if isinstance(model, CaptionerConfig):
        return captioner.rules(model)
    return dit.RULES if isinstance(model, DiTConfig) else REPLICATED


def model_config(folder: Place, config: dict[str, Any]) -> ModelConfig:
    """Returns the settings of a folder's model from its `config.json`.

    Raises:
        UserError: a setting is unknown, missing or wrong.
    """
    try:
        return build(_CLASSES[config["kind"]], config["model"], "model.")
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error


def abstract_params(model: ModelConfig, *, computed: bool = False) -> PyTree:
    """Returns shapes and dtypes of a model's parameters, stacked.

    Args:
        computed: the kernels of a transformer have the dtype of their products, as in
            `dit.cast_kernels`, and not float32.
    """
    modules: dict[type, Any] = {DiTConfig: dit, CaptionerConfig: captioner}
    module = modules.get(type(model), vae)
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), model))
    if computed and isinstance(model, DiTConfig):
        return jax.eval_shape(functools.partial(dit.cast_kernels, cfg=model), abstract)
    return abstract

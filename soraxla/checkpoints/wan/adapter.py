"""LoRA files of public trainers, added to a Wan transformer's weights."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from soraxla.checkpoints.wan.adapter_names import Names, formula
from soraxla.core.errors import UserError
from soraxla.files.tensor_files import (
    check_types,
    file_metadata,
    open_tensors,
    weight_files,
)

ADAPTER = "pytorch_lora_weights.safetensors"
_PEFT = "adapter_model.safetensors"
_PEFT_CONFIG = "adapter_config.json"
_HEADER_CONFIG = "lora_adapter_metadata"  # diffusers' key of a JSON text


class Adapter:
    """A file of LoRA matrices for a transformer, to be added to its weights.

    `soraxla.checkpoints.wan.adapter_names` has the spellings. The scale is alpha / rank
    where alpha is known: from a tensor of the layer, from the header (diffusers,
    kohya), or from PEFT's `adapter_config.json` beside the file. Else it is 1.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]):
        """
        Args:
            path: the file, or a folder that holds it.
            shapes: of the transformer's tensors, in diffusers' names.

        Raises:
            UserError: the file is damaged, is no LoRA, or has tensors of another model.
        """
        path = _file_in(path) if path.is_dir() else path
        self._tensors = open_tensors([path])
        self._config = _config(path)
        _check_formula(path, [*self._tensors], self._config)
        names = Names(shapes)
        # By tensor of the transformer: its parts' names in the file, by role.
        self._parts: dict[str, dict[str, str]] = {}
        self._layer_of: dict[str, str] = {}
        strange = []
        for name in self._tensors:
            part = names.part(name)
            if part is None or part.role in self._parts.get(part.target, ()):
                strange.append(name)
                continue
            self._parts.setdefault(part.target, {})[part.role] = name
            self._layer_of[part.target] = part.layer
        strange += [
            name
            for target, parts in self._parts.items()
            if not self._fits(target, parts, shapes[target])
            for name in parts.values()
        ]
        if strange or not self._parts:
            raise UserError(
                f"{path}: {len(strange)} of {len(self._tensors)} tensors are "
                "no pair of LoRA matrices for this model, such as "
                f"{min(strange, default='')!r}; give an adapter of this model"
            )
        alphas = {parts["alpha"] for parts in self._parts.values() if "alpha" in parts}
        check_types(t for name, t in self._tensors.items() if name not in alphas)

    def _fits(
        self, target: str, parts: Mapping[str, str], shape: tuple[int, ...]
    ) -> bool:
        shapes = {role: self._tensors[name].shape for role, name in parts.items()}
        if "diff" in shapes and shapes["diff"] != shape:
            return False
        if "b_bias" in shapes:
            pair = self._parts.get(_weight_of(target), {})
            return shapes["b_bias"] == shape and "b" in pair
        if not parts.keys() & {"a", "b", "alpha"}:
            return True
        if not {"a", "b"} <= parts.keys():
            return False
        (outputs, *ranks), (rank, *inputs) = shapes["b"], shapes["a"]
        rest = math.prod(shape[1:])
        return (outputs, math.prod(ranks), math.prod(inputs)) == (shape[0], rank, rest)

    def add(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """Returns a transformer's tensor with its change, in the tensor's dtype."""
        parts = self._parts.get(name)
        if parts is None:
            return tensor
        total = tensor.astype(np.float32)
        if "b" in parts:
            a, b = (self._read(parts[role]) for role in ("a", "b"))
            product = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
            total += self._scale(name) * product.reshape(total.shape)
        if "b_bias" in parts:
            total += self._scale(_weight_of(name)) * self._read(parts["b_bias"])
        if "diff" in parts:
            total += self._read(parts["diff"])
        return total.astype(tensor.dtype)

    def _read(self, name: str) -> np.ndarray:
        return self._tensors[name][()].astype(np.float32)

    def _scale(self, target: str) -> float:
        """Returns the factor of the product that is added to a tensor."""
        parts, layer = self._parts[target], self._layer_of[target]
        rank = self._tensors[parts["a"]].shape[0]
        if "alpha" in parts:
            return self._read(parts["alpha"]).item() / rank
        alpha = self._config.get("lora_alpha")
        for pattern, value in (self._config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):  # as PEFT does
                alpha = value
        if alpha is None:
            return 1.0
        root = self._config.get("use_rslora")  # arXiv 2312.03732
        return float(alpha) / (math.sqrt(rank) if root else rank)


def _weight_of(bias: str) -> str:
    return f"{bias.rpartition('.')[0]}.weight"


def _file_in(folder: Path) -> Path:
    """Returns the adapter file of a folder.

    Raises:
        UserError: the folder holds none, or several.
    """
    for name in (_PEFT, ADAPTER):
        if (folder / name).is_file():
            return folder / name
    files = weight_files(folder)
    if len(files) != 1:
        raise UserError(
            f"{folder}: holds {len(files)} safetensors files, expected one adapter; "
            "name the file"
        )
    return files[0]


def _config(path: Path) -> dict[str, Any]:
    """Returns PEFT's settings of an adapter, from its header or from beside it.

    kohya's `ss_network_alpha` becomes PEFT's `lora_alpha`.

    Raises:
        UserError: they are damaged.
    """
    metadata, beside = file_metadata(path), path.with_name(_PEFT_CONFIG)
    where, text = f"{path}: {_HEADER_CONFIG} in its header", None
    if _HEADER_CONFIG in metadata:
        text = metadata[_HEADER_CONFIG]
    elif path.name == _PEFT and beside.is_file():
        where, text = str(beside), beside.read_text(encoding="utf-8")
    if text is None:
        alpha = metadata.get("ss_network_alpha", "None")
        found: dict[str, Any] = {} if alpha == "None" else {"lora_alpha": alpha}
    else:
        found = _parsed(text, where)
    try:
        values = [found.get("lora_alpha"), *(found.get("alpha_pattern") or {}).values()]
        _ = [float(alpha) for alpha in values if alpha is not None]
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: has an alpha that is no number ({error})") from None
    return found


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is damaged ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: is damaged, not an object; copy it again")
    # diffusers prefixes the settings of a pipeline's part with its name.
    return {key.removeprefix("transformer."): value for key, value in found.items()}


def _check_formula(path: Path, names: list[str], config: Mapping[str, Any]) -> None:
    other = formula(names)
    kind = config.get("peft_type")
    if other is None and config.get("use_dora"):
        other = "DoRA", "use_dora"
    if other is None and kind not in (None, "LORA"):
        other = str(kind), "peft_type"
    if other is not None:
        raise UserError(
            f"{path}: is {other[0]} (by {other[1]!r}), which cannot be merged; give a "
            "plain LoRA, or merge it with its trainer's tools and import the result"
        )

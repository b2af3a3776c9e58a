"""Export and import of Wan adapters in the format of diffusers' `load_lora_weights`."""

import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from soraxla.checkpoints.model_folder import abstract_params
from soraxla.checkpoints.training_folder import settings_of_kind, trained_ema
from soraxla.checkpoints.wan.layout import diffusers_name, dit_places
from soraxla.core.errors import UserError
from soraxla.core.trees import is_stacked, named_leaves, unstacked
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.tensor_files import check_types, open_tensors
from soraxla.models.dit.lora import LoRAConfig

ADAPTER = "pytorch_lora_weights.safetensors"


def export_adapter(checkpoint: Path, out: Path) -> None:
    """Writes the averaged adapters to `out/pytorch_lora_weights.safetensors`.

    Raises:
        UserError: `out` exists, `checkpoint` is no LoRA training folder, or diffusers
            cannot adapt a layer.
    """
    if out.exists():
        raise UserError(f"{out}: exists; remove it or choose another --out")
    settings = settings_of_kind(checkpoint, "dit")
    if settings["step"].get("lora") is None:
        raise UserError(
            f"{checkpoint}: trains whole weights and has no adapter; leave out "
            "--adapter"
        )
    model, lora, adapters = trained_ema(checkpoint, settings)
    assert lora is not None
    places = dit_places(model, abstract_params(model))
    tensors = {}
    for name, leaf in named_leaves(jax.device_get(adapters)).items():
        layer, _, part = name.rpartition(".")
        kernel = f"{layer}.kernel"
        matrices = leaf if is_stacked(name) else leaf[None]
        for one, matrix in zip(unstacked(kernel, leaf.shape), matrices, strict=True):
            place = places.get(one)
            if place is None or place.axes != "o i -> i o":
                raise UserError(
                    f"{checkpoint}: diffusers has no adapter of {layer!r}; export the "
                    "merged weights, by leaving out --adapter"
                )
            theirs = place.name.removesuffix(".weight")
            tensors |= _theirs(f"transformer.{theirs}", part, matrix, lora)
    with atomic_folder(out) as partial:
        save_file(tensors, partial / ADAPTER, metadata={"format": "pt"})


def _theirs(
    layer: str, part: str, matrix: np.ndarray, lora: LoRAConfig
) -> dict[str, np.ndarray]:
    # Without an alpha in the file, readers use a scale of 1, so `b` includes ours.
    if part == "a":
        return {f"{layer}.lora_A.weight": np.ascontiguousarray(matrix.T)}
    return {f"{layer}.lora_B.weight": np.ascontiguousarray(lora.scale * matrix.T)}


class Adapter:
    """A file of LoRA matrices for a transformer, to be added to its weights.

    Layers have diffusers' or Wan's names, after `transformer.` or `diffusion_model.`;
    the scale is alpha / rank if the file has alpha, else 1.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]):
        """
        Args:
            shapes: of the transformer's tensors, in diffusers' names.

        Raises:
            UserError: the file is damaged, or has tensors of another model.
        """
        self._tensors = open_tensors([path])
        check_types(self._tensors.values())
        self._names: dict[str, dict[str, str]] = {}  # weight → part → name in the file
        strange = []
        for name in self._tensors:
            found = re.fullmatch(
                r"(?:transformer\.|diffusion_model\.)?(.+)\."
                r"(lora_A\.weight|lora_B\.weight|alpha)",
                name,
            )
            weight = diffusers_name(f"{found[1]}.weight") if found else ""
            if found is None or weight not in shapes:
                strange.append(name)
            else:
                self._names.setdefault(weight, {})[found[2]] = name
        strange += [
            name
            for weight, parts in self._names.items()
            if not self._fits(parts, shapes[weight])
            for name in parts.values()
        ]
        if strange or not self._names:
            raise UserError(
                f"{path}: {len(strange)} of {len(self._tensors)} tensors are "
                "no pair of LoRA matrices for this model, such as "
                f"{min(strange, default='')!r}; give an adapter of this model"
            )

    def _fits(self, parts: Mapping[str, str], shape: tuple[int, ...]) -> bool:
        if not {"lora_A.weight", "lora_B.weight"} <= parts.keys():
            return False
        a, b = (self._tensors[parts[f"lora_{x}.weight"]].shape for x in ("A", "B"))
        return len(a) == len(b) == 2 and (b[0], a[1]) == shape and a[0] == b[1]

    def add(self, weight: str, tensor: np.ndarray) -> np.ndarray:
        """Returns a transformer's tensor plus its product, in the tensor's dtype."""
        parts = self._names.get(weight)
        if parts is None:
            return tensor
        a, b = (
            self._tensors[parts[f"lora_{x}.weight"]][()].astype(np.float32)
            for x in ("A", "B")
        )
        scale = 1.0
        if "alpha" in parts:
            scale = self._tensors[parts["alpha"]][()].astype(np.float32).item() / len(a)
        return (tensor.astype(np.float32) + scale * (b @ a)).astype(tensor.dtype)

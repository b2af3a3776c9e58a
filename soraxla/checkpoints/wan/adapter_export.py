"""Export of Wan adapters in the format of diffusers' `load_lora_weights`."""

import jax
import numpy as np

from soraxla.checkpoints.model_folder import abstract_params
from soraxla.checkpoints.training_folder import settings_of_kind, trained_ema
from soraxla.checkpoints.wan.adapter import ADAPTER
from soraxla.checkpoints.wan.layout import dit_places
from soraxla.core.errors import UserError
from soraxla.core.paths import Place
from soraxla.core.trees import is_stacked, named_leaves, unstacked
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import save_tensors
from soraxla.models.dit.lora import LoRAConfig


def export_adapter(checkpoint: Place, out: Place) -> None:
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
        save_tensors(tensors, partial / ADAPTER, metadata={"format": "pt"})


def _theirs(
    layer: str, part: str, matrix: np.ndarray, lora: LoRAConfig
) -> dict[str, np.ndarray]:
    # Without an alpha in the file, readers use a scale of 1, so `b` includes ours.
    if part == "a":
        return {f"{layer}.lora_A.weight": np.ascontiguousarray(matrix.T)}
    return {f"{layer}.lora_B.weight": np.ascontiguousarray(lora.scale * matrix.T)}

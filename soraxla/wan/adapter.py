"""The adapter of a LoRA training, alone, as diffusers' `load_lora_weights` reads it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save_file

from soraxla.lora import LoRA
from soraxla.models import dit
from soraxla.settings import build
from soraxla.training.steps import DiTStep, dit_init
from soraxla.trees import named_leaves
from soraxla.wan.layout import dit_places
from soraxla.weights import from_training, is_stacked, restore_state, unstacked

ADAPTER = "pytorch_lora_weights.safetensors"


def export_adapter(checkpoint: Path, out: Path) -> None:
    """Writes the averaged adapters to `out/pytorch_lora_weights.safetensors`.

    Raises:
        ValueError: `out` exists, `checkpoint` is no LoRA training folder, or an adapted
            layer is none that diffusers can adapt.
    """
    if out.exists():
        raise ValueError(f"{out}: exists; remove it or choose another --out")
    step, adapters = from_training(checkpoint, "dit", _trained)
    abstract = jax.eval_shape(lambda: dit.init(jax.random.key(0), step.model))
    places = dit_places(step.model, abstract)
    tensors = {}
    for name, leaf in named_leaves(jax.device_get(adapters)).items():
        layer, _, part = name.rpartition(".")
        kernel = f"{layer}.kernel"
        matrices = leaf if is_stacked(name) else leaf[None]
        for one, matrix in zip(unstacked(kernel, leaf.shape), matrices, strict=True):
            place = places.get(one)
            if place is None or place.axes != "o i -> i o":
                raise ValueError(
                    f"{checkpoint}: diffusers has no adapter of {layer!r}; export the "
                    "merged weights, by leaving out --adapter"
                )
            theirs = place.name.removesuffix(".weight")
            tensors |= _theirs(f"transformer.{theirs}", part, matrix, step.lora)
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial / ADAPTER, metadata={"format": "pt"})
    partial.rename(out)


def _trained(folder: Path, settings: dict[str, Any]) -> tuple[DiTStep, PyTree]:
    step = build(DiTStep, settings["step"], "step.")
    if step.lora is None:
        raise ValueError(
            f"{folder}: trains whole weights, it has no adapter; leave out --adapter"
        )
    return step, restore_state(folder, lambda: dit_init(step)).ema


def _theirs(
    layer: str, part: str, matrix: np.ndarray, lora: LoRA
) -> dict[str, np.ndarray]:
    # Readers take the scale for 1 where a file names no alpha, so `b` carries ours.
    if part == "a":
        return {f"{layer}.lora_A.weight": np.ascontiguousarray(matrix.T)}
    return {f"{layer}.lora_B.weight": np.ascontiguousarray(lora.scale * matrix.T)}

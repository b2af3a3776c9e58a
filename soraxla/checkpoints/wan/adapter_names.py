"""Names of LoRA tensors, in the spellings of diffusers, PEFT and Wan's trainers.

diffusers writes `transformer.LAYER.lora_A.weight`, PEFT `base_model.model.LAYER.…`,
DiffSynth `LAYER.lora_A.default.weight`, ComfyUI and diffusion-pipe
`diffusion_model.LAYER.lora_down.weight`, and kohya and musubi-tuner
`lora_unet_LAYER.lora_down.weight` with the layer's dots as underscores. Layers have
diffusers' names or Wan's own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from soraxla.checkpoints.wan.layout import diffusers_name, original_layers

_PREFIX = re.compile(
    r"(?:base_model_model_)?"
    r"(?:lora_unet_|lora_transformer_|transformer_|(?:model_)?diffusion_model_|dit_)?"
)
_ROLES = {  # of a tensor, by the end of its name
    "a": r"\.(?:lora_A|lora_down|lora\.down)(?:\.\w+)?\.weight",
    "b": r"\.(?:lora_B|lora_up|lora\.up)(?:\.\w+)?\.weight",
    "b_bias": r"\.(?:lora_B|lora_up|lora\.up)(?:\.\w+)?\.bias",
    "alpha": r"\.alpha",
    "diff": r"\.diff",
    "diff_b": r"\.diff_b",
    "diff_m": r"\.diff_m",
}
# Adapters of another formula, by a part of a tensor's name.
_OTHERS = {
    "DoRA": r"\.(dora_scale|lora_magnitude_vector)",
    "LoKr": r"\.lokr_",
    "LoHa": r"\.hada_",
    "OFT": r"\.b?oft_",
    "LoRA with a third matrix": r"\.lora_mid\.",
}


class Part(NamedTuple):
    """A tensor of an adapter file: the tensor that it changes, and its role in that.

    Attributes:
        target: the transformer's tensor, in diffusers' names.
        role: "a", "b" and "alpha" of a product that is added to `target`, or "b_bias",
            the product's own bias, or "diff", a tensor that is added as it is.
        layer: the name before the role, as in the file.
    """

    target: str
    role: str
    layer: str


def formula(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns the formula of an adapter that is not LoRA, and a tensor that shows it.

    None for LoRA.
    """
    for name in names:
        for what, pattern in _OTHERS.items():
            if re.search(pattern, name):
                return what, name
    return None


class Names:
    """The layers of a transformer, found by any spelling of them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        """
        Args:
            shapes: of the transformer's tensors, in diffusers' names.
        """
        layers = {name.rpartition(".")[0] for name in shapes}
        blocks = {layer.split(".")[1] for layer in layers if "blocks." in layer}
        self._layers = {_flat(layer): layer for layer in layers}
        for original in original_layers(len(blocks)):
            theirs = diffusers_name(f"{original}.weight").removesuffix(".weight")
            self._layers[_flat(original)] = theirs
        # The modulation of a block is a table of the block; that of the head, of all.
        self._layers["head"] = ""
        self._targets = frozenset(shapes)

    def part(self, name: str) -> Part | None:
        """Returns the part that a tensor's name says; None for another model's."""
        for role, pattern in _ROLES.items():
            found = re.fullmatch(f"(.+?){pattern}", name)
            if found is None:
                continue
            flat = _flat(found[1])
            prefix = _PREFIX.match(flat)
            flat = flat[prefix.end() :] if prefix else flat
            layer = self._layers.get(flat)
            if layer is None:
                return None
            leaf = {"b_bias": "bias", "diff_b": "bias", "diff_m": "scale_shift_table"}
            target = f"{layer}.{leaf.get(role, 'weight')}".removeprefix(".")
            if target not in self._targets:
                return None
            role = "diff" if role in ("diff_b", "diff_m") else role
            return Part(target, role, found[1])
        return None


def _flat(name: str) -> str:
    return re.sub(r"[._]+", "_", name)

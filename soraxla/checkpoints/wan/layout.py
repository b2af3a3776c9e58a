"""Names and axes of our tensors in Wan's files.

The names are diffusers' (`WanTransformer3DModel`, `AutoencoderKLWan`); Wan's names of
the transformer are another spelling of the same tensors.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import PyTree

from soraxla.core.trees import is_stacked, named_leaves, unstacked
from soraxla.models.dit.config import DiTConfig
from soraxla.models.vae.model import VAEConfig


class Place(NamedTuple):
    """The name and the axes of one of our (unstacked) tensors in Wan's files.

    Attributes:
        axes: einops pattern from theirs to ours; reversed for the export.
        sizes: of the axes that the pattern merges.
    """

    name: str
    axes: str
    shape: tuple[int, ...]  # ours
    sizes: Mapping[str, int] = {}

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Converts their tensor to ours."""
        return rearrange(tensor, self.axes, **self.sizes)

    def to_theirs(self, tensor: np.ndarray) -> np.ndarray:
        """Converts our tensor to theirs."""
        theirs, _, ours = self.axes.partition(" -> ")
        return rearrange(tensor, f"{ours} -> {theirs}", **self.sizes)

    @property
    def their_shape(self) -> tuple[int, ...]:
        return self.to_theirs(np.broadcast_to(np.zeros((), bool), self.shape)).shape


_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"} | {
    name: name for name in ("norm_q", "norm_k")
}
_DIT = {
    "patch_embed": "patch_embedding",
    "time_in": "condition_embedder.time_embedder.linear_1",
    "time_out": "condition_embedder.time_embedder.linear_2",
    "time_proj": "condition_embedder.time_proj",
    "text_embed.in_proj": "condition_embedder.text_embedder.linear_1",
    "text_embed.out_proj": "condition_embedder.text_embedder.linear_2",
    "head": "proj_out",
    "cross_norm": "norm2",
    "mlp.in_proj": "ffn.net.0.proj",
    "mlp.out_proj": "ffn.net.2",
} | {
    f"{ours}.{mine}": f"{theirs}.{yours}"
    for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
    for mine, yours in _ATTENTION.items()
}
_LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}


def dit_places(cfg: DiTConfig, abstract: PyTree) -> dict[str, Place]:
    """Returns the place of every tensor of a Wan transformer, by our name.

    Tensors that Wan does not have are left out.

    Args:
        abstract: shapes of the parameters, stacked.
    """
    places = {}
    for top, leaf in named_leaves(abstract).items():
        shape = leaf.shape[1:] if is_stacked(top) else leaf.shape
        for name in unstacked(top, leaf.shape):
            place = _dit_place(name, shape, cfg)
            if place is not None:
                places[name] = place
    return places


def _dit_place(name: str, shape: tuple[int, ...], cfg: DiTConfig) -> Place | None:
    if name == "head_table":
        return Place("scale_shift_table", "1 n d -> n d", shape)
    block = re.match(r"blocks\.\d+\.", name)
    prefix = block.group() if block else ""
    module, _, leaf = name.removeprefix(prefix).rpartition(".")
    if leaf == "table":
        return Place(f"{prefix}scale_shift_table", "1 n d -> n d", shape)
    if module not in _DIT:
        return None  # not in Wan
    theirs = f"{prefix}{_DIT[module]}.{_LEAVES[leaf]}"
    if leaf != "kernel":
        return Place(theirs, "d -> d", shape)
    if module == "patch_embed":
        t, h, w = cfg.patch
        sizes = {"t": t, "h": h, "w": w}
        return Place(theirs, "d c t h w -> (t h w c) d", shape, sizes)
    return Place(theirs, "o i -> i o", shape)


# Wan's spelling, most specific first: (pattern, diffusers' name).
_ORIGINAL = [
    (r"^patch_embedding\.", "patch_embedding."),
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
    (r"^(blocks\.\d+)\.self_attn\.([qkv])\.", r"\1.attn1.to_\2."),
    (r"^(blocks\.\d+)\.cross_attn\.([qkv])\.", r"\1.attn2.to_\2."),
    (r"^(blocks\.\d+)\.self_attn\.o\.", r"\1.attn1.to_out.0."),
    (r"^(blocks\.\d+)\.cross_attn\.o\.", r"\1.attn2.to_out.0."),
    (r"^(blocks\.\d+)\.self_attn\.(norm_[qk])\.", r"\1.attn1.\2."),
    (r"^(blocks\.\d+)\.cross_attn\.(norm_[qk])\.", r"\1.attn2.\2."),
    (r"^(blocks\.\d+)\.norm3\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.ffn\.0\.", r"\1.ffn.net.0.proj."),
    (r"^(blocks\.\d+)\.ffn\.2\.", r"\1.ffn.net.2."),
]


_ORIGINAL_LAYERS = (
    *("patch_embedding", "time_embedding.0", "time_embedding.2", "time_projection.1"),
    *("text_embedding.0", "text_embedding.2", "head.head"),
)
_ORIGINAL_BLOCK = (
    *(f"self_attn.{part}" for part in _ATTENTION),
    *(f"cross_attn.{part}" for part in _ATTENTION),
    *("norm3", "ffn.0", "ffn.2"),
)


def original_layers(blocks: int) -> list[str]:
    """Returns the layers of Wan's transformer of so many blocks, in Wan's names."""
    inner = [f"blocks.{i}.{name}" for i in range(blocks) for name in _ORIGINAL_BLOCK]
    return [*_ORIGINAL_LAYERS, *inner]


def is_original(names: Mapping[str, object]) -> bool:
    """Returns whether these are Wan's names of a transformer, not diffusers'."""
    return any(name.endswith("head.modulation") for name in names)


def diffusers_name(original: str) -> str:
    """Returns diffusers' name of a tensor of Wan's transformer, or the name itself."""
    name = original.removeprefix("model.diffusion_model.")
    for pattern, replacement in _ORIGINAL:
        renamed, hits = re.subn(pattern, replacement, name)
        if hits:
            return renamed
    return original


def vae_places(cfg: VAEConfig, abstract: PyTree) -> dict[str, Place]:
    """Returns the place of every tensor of the VAE, by our name."""
    return {
        name: _vae_place(name, leaf.shape, cfg)
        for name, leaf in named_leaves(abstract).items()
    }


def _vae_place(name: str, shape: tuple[int, ...], cfg: VAEConfig) -> Place:
    half, _, rest = name.partition(".")
    module, _, leaf = rest.rpartition(".")
    if module in ("quant", "post_quant"):
        theirs = f"{module}_conv"
    else:
        theirs = f"{half}.{_vae_module(half, module, cfg)}"
    if leaf == "bias":
        return Place(f"{theirs}.bias", "c -> c", shape)
    if leaf == "scale":
        frames = "1 1" if ".attention." in name else "1 1 1"
        return Place(f"{theirs}.gamma", f"c {frames} -> c", shape)
    if module.endswith(("_down.conv", "_up.conv")):  # of single frames
        axes = "o i h w -> 1 h w i o"
    else:
        axes = {
            5: "o i t h w -> t h w i o",
            3: "o i t 1 1 -> t i o",
            2: "o i 1 1 -> i o",
        }[len(shape)]
    return Place(f"{theirs}.weight", axes, shape)


def _vae_module(half: str, module: str, cfg: VAEConfig) -> str:
    top, _, rest = module.partition(".")
    if top == "middle":
        part, _, leaf = rest.partition(".")
        block = {
            "res_0": "resnets.0",
            "res_1": "resnets.1",
            "attention": "attentions.0",
        }[part]
        return f"mid_block.{block}.{'to_qkv' if leaf == 'qkv' else leaf}"
    found = re.fullmatch(r"stage_(\d+)_(?:res_(\d+)|down|up)", top)
    if found is None:
        return module  # conv_in, norm_out, conv_out
    stage = int(found[1])
    rest = {"shortcut": "conv_shortcut", "conv": "resample.1"}.get(rest, rest)
    if cfg.residual:
        resampler = "downsampler" if half == "encoder" else "upsampler"
        part = f"resnets.{found[2]}" if found[2] else resampler
        blocks = "down_blocks" if half == "encoder" else "up_blocks"
        return f"{blocks}.{stage}.{part}.{rest}"
    if half == "encoder":  # one flat list
        blocks = cfg.stage_blocks[stage]
        place = int(found[2]) if found[2] else blocks
        return f"down_blocks.{stage * (blocks + 1) + place}.{rest}"
    part = f"resnets.{found[2]}" if found[2] else "upsamplers.0"
    return f"up_blocks.{stage}.{part}.{rest}"

"""Sizes and settings of the diffusion transformer."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.packing.controls import Controls


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The settings of a diffusion transformer with Wan 2.1's layers (arXiv 2503.20314).

    Attributes:
        layers: transformer blocks.
        width: channels of a token.
        heads: attention heads.
        mlp_width: hidden units of a block's MLP.
        latent_channels: channels of the VAE's latents; a training takes its dataset's.
        patch: latents of one token, (time, height, width).
        text_width: width of the text encoder's embeddings; taken as the channels.
        text_refiner_layers: self-attention blocks over a segment's text tokens.
        text_pad_to: the length to which prompts were padded, without a mask, in
            training; None if the model attends to real tokens only.
        position_embed: add an embedding of a token's absolute position, since RoPE
            encodes only relative ones (as NaViT does, arXiv 2307.06304). Off in Wan.
        input_gate: mix each channel of the prediction with the noisy token and with
            tokens that an attention copies. For x0-prediction with tokens of about
            `width` channels or more, which then need not pass through the network.
            Off in Wan.
        local_layers: convolutions over neighbouring latents that are added to the
            prediction, so that patches match at their borders. 0 in Wan.
        local_width: channels of the local and the forecast layers.
        forecast_layers: convolutions that predict a latent frame from the two before
            it. The network reads the forecast and mixes it into its prediction of x0.
            0 in Wan.
        rope_fps: frame rate at which one latent frame is one step of the time axis.
        controls: actions and camera that steer latent frames; none by default.
        shift: the time shift rule: "auto" (by clip size), or one number for all clips.
        dtype: of activations and matmuls; parameters are always fp32.
        remat: what the backward pass recomputes. "full": each block except its
            self-attention. "dots": all but matmuls and attention. "none": nothing.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    latent_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    text_width: int = 256
    # The default encoder embeds each word separately. Without a layer in which words
    # see each other, "a red ball on a blue box" and its swap differ in positions only.
    text_refiner_layers: int = 1
    text_pad_to: int | None = None
    position_embed: bool = True
    input_gate: bool = False
    local_layers: int = 0
    local_width: int = 128
    forecast_layers: int = 0
    rope_fps: float = 16.0
    controls: Controls = field(default_factory=Controls)
    shift: float | Literal["auto"] = "auto"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Literal["full", "dots", "none"] = "full"

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "mlp_width", "latent_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"DiT {name} is {getattr(self, name)}: expected ≥ 1")
        least_of = {"local_layers": 0, "local_width": 1, "forecast_layers": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UserError(
                    f"DiT {name} is {getattr(self, name)}: expected ≥ {least}"
                )
        if self.width % self.heads or self.head_dim % 2 or self.head_dim < 6:
            raise UserError(
                f"DiT width {self.width} with {self.heads} heads: expected an even "
                "head dim of at least 6; change width or heads"
            )
        if self.text_pad_to is not None and self.text_refiner_layers:
            raise UserError(
                f"DiT text_pad_to={self.text_pad_to} with text_refiner_layers="
                f"{self.text_refiner_layers}: padded text (Wan's) takes no refiner; "
                "set one of them to None or 0"
            )
        if self.shift != "auto" and not 0.0 < float(self.shift) < math.inf:
            raise UserError(
                f"DiT shift {self.shift!r}: expected 'auto' or a number above 0"
            )
        if self.dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"DiT dtype {self.dtype!r}: expected 'bfloat16' or 'float32'"
            )
        if self.remat not in ("full", "dots", "none"):
            raise UserError(
                f"DiT remat {self.remat!r}: expected 'full', 'dots' or 'none'"
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_dim(self) -> int:
        """The numbers in one token, P."""
        return math.prod(self.patch) * self.latent_channels


def _size(layers: int, width: int, heads: int, **settings: Any) -> DiTConfig:
    settings = {"mlp_width": 4 * width, **settings}
    return DiTConfig(layers=layers, width=width, heads=heads, **settings)


def _wan(layers: int, width: int, heads: int, mlp_width: int, **settings: Any):
    wan = {
        "mlp_width": mlp_width,
        "text_width": 4096,
        "text_refiner_layers": 0,
        "text_pad_to": 512,
        "position_embed": False,
    }
    return _size(layers, width, heads, **wan, **settings)


SIZES: dict[str, DiTConfig] = {
    "debug": _size(2, 64, 2),
    "xs": _size(8, 256, 2),
    "s": _size(12, 512, 4),
    "b": _size(16, 1024, 8),
    "l": _size(28, 1280, 10),
    "wan_1_3b": _wan(30, 1536, 12, 8960, shift=3.0),
    "xl": _size(28, 2560, 20),
    "wan_5b": _wan(30, 3072, 24, 14336, latent_channels=48, rope_fps=24.0, shift=5.0),
    "7b": _size(32, 3584, 28),
    "wan_14b": _wan(40, 5120, 40, 13824, shift=5.0),
}


def dit_config(size: str, **overrides: Any) -> DiTConfig:
    """Returns the settings of a named size, with `overrides`.

    Raises:
        UserError: the size or setting does not exist (the error names the nearest), or
            the settings contradict each other.
    """
    if size not in SIZES:
        raise UserError(f"unknown DiT size {size!r}{nearest(size, list(SIZES))}")
    names = [f.name for f in dataclasses.fields(DiTConfig)]
    for name in overrides:
        if name not in names:
            raise UserError(f"unknown DiT setting {name!r}{nearest(name, names)}")
    return dataclasses.replace(SIZES[size], **overrides)

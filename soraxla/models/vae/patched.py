"""Stages of a VAE that folds blocks of pixels and frames into channels first.

No layer computes at the resolution of pixels: with patches of 4 frames and 4×4 pixels,
stages work at a quarter and an eighth of height and width, on one frame of features per
latent frame. Frame 0, repeated, fills the first patch, so that a picture is one patch.
A block sees its surroundings by 3×3 convolutions of each frame and the past by a
product with the frame before: a third of the work of 3×3×3 convolutions.

Blocks start as the identity and all other layers are linear, so a fresh VAE is one
linear map. `patched_start.py` sets it to the principal components of its patches.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.models.vae.config import VAEConfig
from soraxla.models.vae.layers import FrameConv, Norm, Stream, by_height
from soraxla.models.vae.shortcuts import fold_pixels, unfold_pixels
from soraxla.ops.linear import affine

_PATCHES = "b (t f) (h p) (w q) c -> b t h w (f p q c)"


def fold_clip(
    x: Float[Array, "b t hp wp c"], frames: int, side: int, *, first: bool
) -> Float[Array, "b tz h w d"]:
    """Returns patches of `frames` × `side` × `side` pixels as channels.

    `first` marks the chunk that starts a clip: 1 + `frames`·k frames, of which frame 0
    is repeated to fill a patch.
    """
    if first:
        x = jnp.concatenate([jnp.repeat(x[:, :1], frames, axis=1), x[:, 1:]], axis=1)
    return rearrange(x, _PATCHES, f=frames, p=side, q=side)


def unfold_clip(
    x: Float[Array, "b tz h w d"], frames: int, side: int, *, first: bool
) -> Float[Array, "b t hp wp c"]:
    """Returns the pixels of patches; `first` keeps one frame of the first patch."""
    back = " -> ".join(reversed(_PATCHES.split(" -> ")))
    x = rearrange(x, back, f=frames, p=side, q=side)
    return x[:, frames - 1 :] if first else x


class Pointwise(nn.Module):
    """Linear map of each position's channels."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.orthogonal()
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return _product(x, kernel, bias, self.dtype)


class TwoFrames(nn.Module):
    """Linear map of each position in a frame and in the frame before it.

    It starts as the identity of the frame itself.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        c = x.shape[-1]
        kernel = self.param("kernel", _present, (2, c, c))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        picture = stream.first and x.shape[1] == 1
        window = stream.extend(x, 1)
        if picture:  # zeros precede it
            return _product(x, kernel[1], bias, self.dtype)
        x = jnp.concatenate([window[:, :-1], x], axis=-1)
        return _product(x, kernel.reshape(2 * c, c), bias, self.dtype)


class FrameBlock(nn.Module):
    """Residual block: 3×3 convolution, product with the frame before, 3×3 convolution.

    It starts as the identity.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        features = x.shape[-1]
        h = nn.silu(Norm(self.dtype, name="norm1")(x))
        h = FrameConv(features, self.dtype, name="conv1")(h)
        h = TwoFrames(self.dtype, name="time")(h, stream)
        h = nn.silu(Norm(self.dtype, name="norm2")(h))
        return x + FrameConv(features, self.dtype, zero=True, name="conv2")(h)


def encode_patches(cfg: VAEConfig, x: Array, stream: Stream) -> Array:
    """Returns the encoder's last features (B,1+k,h,w,D) of pixels (B,1+fk,sh,sw,3).

    A module calls this; the layers here are its layers.
    """
    x = fold_clip(x, cfg.temporal, cfg.pixel_patch, first=stream.first)
    widths = [m * cfg.base_width for m in cfg.multipliers]
    x = Pointwise(widths[0], cfg.dtype, name="conv_in")(by_height(x))
    for i, blocks in enumerate(cfg.stage_blocks):
        if i:
            down = Pointwise(widths[i], cfg.dtype, name=f"stage_{i - 1}_down")
            x = down(fold_pixels(x, 2))
        for j in range(blocks):
            x = FrameBlock(cfg.dtype, name=f"stage_{i}_res_{j}")(x, stream)
        x = by_height(x)
    return x


def decode_patches(cfg: VAEConfig, z: Array, stream: Stream) -> Array:
    """Returns pixels (B,1+fk,sh,sw,3), fp32, of latents (B,1+k,h,w,z).

    A module calls this; the layers here are its layers.
    """
    widths = [m * cfg.base_width for m in reversed(cfg.multipliers)]
    x = Pointwise(widths[0], cfg.dtype, name="conv_in")(by_height(z))
    for i, blocks in enumerate(reversed(cfg.stage_blocks)):
        if i:
            up = Pointwise(4 * widths[i], cfg.dtype, name=f"stage_{i - 1}_up")
            x = unfold_pixels(up(x), 2)
        for j in range(blocks + 1):
            x = FrameBlock(cfg.dtype, name=f"stage_{i}_res_{j}")(x, stream)
        x = by_height(x)
    numbers = 3 * cfg.temporal * cfg.pixel_patch**2
    x = FrameConv(numbers, cfg.dtype, name="conv_out")(x).astype(jnp.float32)
    return unfold_clip(x, cfg.temporal, cfg.pixel_patch, first=stream.first)


def _product(x: Array, kernel: Array, bias: Array, dtype: str) -> Array:
    """Returns x·kernel + bias over the last axis, in `dtype`."""
    rows = x.reshape(x.shape[0], -1, x.shape[-1]).astype(dtype)
    y = affine(rows, kernel.astype(dtype), bias.astype(dtype))
    return y.reshape(*x.shape[:-1], -1)


def _present(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jnp.zeros(shape, dtype).at[1].set(jnp.eye(shape[-1], dtype=dtype))

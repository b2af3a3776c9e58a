"""Causal video VAE with the layer layout of Wan 2.1 (arXiv 2503.20314).

A clip of 1 + 4k frames becomes 1 + k latent frames at an eighth of its height and
width: latent 0 sees only frame 0, latent τ nothing after frame 4τ. Every layer that
looks back in time keeps its last inputs in a `Stream`. A whole clip is one first chunk
whose stream is dropped, so one code computes parallel and streamed results.

Wan 2.2's VAE has `residual` stages, a wider decoder, and pixels folded into channels
first: a sixteenth of the height and width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, PyTree

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.models.vae.config import VAEConfig
from soraxla.models.vae.layers import (
    Conv,
    Down,
    Middle,
    Norm,
    ResBlock,
    Stream,
    Up,
    by_height,
)
from soraxla.models.vae.linear import ToLatents, ToPixels
from soraxla.models.vae.patched import decode_patches, encode_patches
from soraxla.models.vae.shortcuts import (
    average_down,
    duplicate_up,
    fold_pixels,
    unfold_pixels,
)
from soraxla.parallel.mesh import constrain


def quiet_posterior(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns biases of 0 for the means and of −8 for the log-variances.

    Training then starts as an autoencoder. With a variance of 1 the first latents are
    mostly noise, and the encoder takes thousands of steps to exceed it.
    """
    half = shape[0] // 2
    return jnp.concatenate([jnp.zeros(half, dtype), jnp.full(half, -8.0, dtype)])


class Encoder(nn.Module):
    """Pixels (B,1+4k,H,W,3) to posterior moments (B,1+k,H/8,W/8,2z), or an H/16."""

    cfg: VAEConfig

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        cfg = self.cfg
        if cfg.linear:
            size = cfg.temporal, cfg.spatial, cfg.latent_channels
            down = ToLatents(*size, name="linear")
            mean = down(by_height(x), stream)
            # The lowest log-variance that `encode_chunk` lets through.
            return jnp.concatenate([mean, jnp.full_like(mean, -30.0)], axis=-1)
        encode = encode_patches if cfg.patched else _encode_stages
        x = encode(cfg, x, stream)
        quant = Conv(
            2 * cfg.latent_channels,
            1,
            "float32",
            bias_init=quiet_posterior,
            name="quant",
        )
        return quant(x.astype(jnp.float32), stream)


def _encode_stages(cfg: VAEConfig, x: Array, stream: Stream) -> Array:
    """Returns the encoder's last features; the layers are those of the caller."""
    dtype = cfg.dtype
    x = by_height(fold_pixels(x, cfg.pixel_patch).astype(dtype))
    x = Conv(cfg.base_width, 3, dtype, name="conv_in")(x, stream)
    for i, m in enumerate(cfg.multipliers):
        before, stride = x, (1, 1)
        for j in range(cfg.stage_blocks[i]):
            block = ResBlock(m * cfg.base_width, dtype, name=f"stage_{i}_res_{j}")
            x = block(x, stream)
        if i < len(cfg.temporal_down):
            stride = cfg.strides[i]
            down = Down(cfg.temporal_down[i], dtype, name=f"stage_{i}_down")
            x = down(x, stream)
        if cfg.residual:
            x = x + average_down(before, x.shape[-1], *stride)
        x = by_height(x)
    x = Middle(x.shape[-1], dtype, name="middle")(x, stream)
    x = nn.silu(Norm(dtype, name="norm_out")(x))
    return Conv(2 * cfg.latent_channels, 3, dtype, name="conv_out")(x, stream)


class Decoder(nn.Module):
    """Latents (B,1+k,h,w,z) to pixels (B,1+4k,8h,8w,3), or 16h."""

    cfg: VAEConfig

    @nn.compact
    def __call__(self, z: Array, stream: Stream) -> Array:
        cfg, dtype = self.cfg, self.cfg.dtype
        base = cfg.decoder_width or cfg.base_width
        widths = [m * base for m in reversed(cfg.multipliers)]
        temporal_up = tuple(reversed(cfg.temporal_down))
        x = by_height(z)
        if cfg.patched:
            return decode_patches(cfg, x, stream)
        linear = ToPixels(cfg.temporal, cfg.spatial, name="linear")
        video = linear(x, stream) if cfg.linear else jnp.zeros(())
        if not cfg.base_width:
            return video
        x = Conv(cfg.latent_channels, 1, dtype, name="post_quant")(x, stream)
        x = Conv(widths[0], 3, dtype, name="conv_in")(x.astype(dtype), stream)
        x = Middle(widths[0], dtype, name="middle")(x, stream)
        for i, width in enumerate(widths):
            before = x
            for j in range(cfg.stage_blocks[-1 - i] + 1):
                x = ResBlock(width, dtype, name=f"stage_{i}_res_{j}")(x, stream)
            if i < len(temporal_up):
                # Wan 2.1 halves channels here, not in the residual blocks.
                features = width if cfg.residual else width // 2
                up = Up(features, temporal_up[i], dtype, name=f"stage_{i}_up")
                x = up(x, stream)
                if cfg.residual:
                    stride = cfg.strides[-1 - i]
                    x = x + duplicate_up(before, width, *stride, first=stream.first)
            x = by_height(x)
        x = nn.silu(Norm(dtype, name="norm_out")(x))
        colours = 3 * cfg.pixel_patch**2
        x = Conv(colours, 3, dtype, zero=cfg.linear, name="conv_out")(x, stream)
        return video + unfold_pixels(x.astype(jnp.float32), cfg.pixel_patch)


def init(key: PRNGKeyArray, cfg: VAEConfig) -> PyTree:
    """Returns fresh parameters, `{"encoder": …, "decoder": …}`, fp32."""
    encoder_key, decoder_key = jax.random.split(key)
    side = 2 * cfg.spatial
    video = jnp.zeros((1, 1 + cfg.temporal, side, side, 3))
    latents = jnp.zeros((1, 2, 2, 2, cfg.latent_channels))
    encoder = Encoder(cfg).init(encoder_key, video, Stream(None))["params"]
    decoder = Decoder(cfg).init(decoder_key, latents, Stream(None))["params"]
    return {"encoder": encoder, "decoder": decoder}


def encode(
    params: PyTree, cfg: VAEConfig, video: Float[Array, "b t h w 3"]
) -> tuple[Float[Array, "b tz hz wz z"], Float[Array, "b tz hz wz z"]]:
    """Returns posterior mean and log-variance, fp32, of pixels in −1…1.

    Neither is normalised.

    Raises UserError unless t is 1 + 4k, and h and w are multiples of `cfg.spatial`.
    """
    mean, logvar, _ = encode_chunk(params, cfg, video, None)
    return mean, logvar


def check_clip(
    cfg: VAEConfig, frames: int, height: int, width: int, *, first: bool = True
) -> None:
    """Raises UserError unless a clip, or a chunk after the first, can be encoded."""
    start = "1 + " if first else ""
    if (
        frames < 1
        or (frames - first) % cfg.temporal
        or height % cfg.spatial
        or width % cfg.spatial
    ):
        raise UserError(
            f"a clip of {frames} frames of {width}x{height} pixels cannot be encoded: "
            f"expected {start}{cfg.temporal}k frames and sides that are multiples of "
            f"{cfg.spatial}; crop it first"
        )


def decode(
    params: PyTree, cfg: VAEConfig, latents: Float[Array, "b tz hz wz z"]
) -> Float[Array, "b t h w 3"]:
    """Returns pixels in −1…1 (fp32) of latents that are not normalised."""
    return jnp.clip(decode_unclipped(params, cfg, latents), -1.0, 1.0)


def decode_unclipped(
    params: PyTree, cfg: VAEConfig, latents: Float[Array, "b tz hz wz z"]
) -> Float[Array, "b t h w 3"]:
    """Returns pixels before the clip to −1…1, beyond which the gradient would be 0."""
    return _decode(params, cfg, latents, Stream(None))


def encode_chunk(
    params: PyTree, cfg: VAEConfig, video: Array, past: list[Array] | None
) -> tuple[Array, Array, list[Array]]:
    """Returns mean, log-variance and the `past` of the next chunk; None at frame 0.

    The first chunk has 1 + 4k frames, each later one 4k. Raises UserError otherwise.
    """
    check_clip(cfg, *video.shape[1:4], first=past is None)
    stream = Stream(past)
    moments = Encoder(cfg).apply({"params": params["encoder"]}, video, stream)
    assert isinstance(moments, jax.Array)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0), stream.future


def decode_chunk(
    params: PyTree, cfg: VAEConfig, latents: Array, past: list[Array] | None
) -> tuple[Array, list[Array]]:
    """Returns the pixels of some latent frames and the `past` of the next chunk."""
    stream = Stream(past)
    video = _decode(params, cfg, latents, stream)
    video = constrain(video, None, None, None, None, None)  # all of it to every host
    return jnp.clip(video, -1.0, 1.0), stream.future


def _decode(params: PyTree, cfg: VAEConfig, latents: Array, stream: Stream) -> Array:
    video = Decoder(cfg).apply({"params": params["decoder"]}, latents, stream)
    assert isinstance(video, jax.Array)
    return video


def normalise(cfg: VAEConfig, latents: Array) -> Array:
    """Returns latents (…,z) of zero mean and unit variance, those of the diffusion."""
    mean, std = _statistics(cfg, latents)
    return (latents - mean) / std


def denormalise(cfg: VAEConfig, latents: Array) -> Array:
    """Returns the latents that `normalise` maps to these."""
    mean, std = _statistics(cfg, latents)
    return latents * std + mean


def _statistics(cfg: VAEConfig, latents: Array) -> tuple[Array, Array]:
    if not cfg.latent_mean:
        raise UserError("this VAE has no latent statistics; train or import it first")
    shape = (1,) * (latents.ndim - 1) + (-1,)
    mean = jnp.asarray(cfg.latent_mean, jnp.float32).reshape(shape)
    return mean, jnp.asarray(cfg.latent_std, jnp.float32).reshape(shape)

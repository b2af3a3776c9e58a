"""Causal video VAE with the layer layout of Wan 2.1 (arXiv 2503.20314).

A clip of 1 + 4k frames becomes 1 + k latent frames at an eighth of its height and
width: latent 0 sees frame 0 alone, latent τ nothing after frame 4τ. Every layer that
looks back in time keeps its last inputs in a `Stream`, so a whole clip is simply one
first chunk whose stream is thrown away: parallel and streamed results are one code.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float, PRNGKeyArray, PyTree

from soraxla.types import Array

TINY = 1e-24  # ‖x‖₂ is floored at 1e-12; under the root, so the gradient at 0 is 0


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Widths of the VAE and the statistics that normalise its latents.

    `base_width` is Wan's C (96 there); stages have `base_width · multipliers`
    channels. `latent_mean` and `latent_std` hold one number a latent channel.
    """

    base_width: int = 96
    latent_channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    temporal_down: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()
    dtype: str = "bfloat16"

    @property
    def spatial(self) -> int:
        """Pixels a latent position covers on each side."""
        return 2 ** len(self.temporal_down)

    @property
    def temporal(self) -> int:
        """Frames a latent after the first covers."""
        return 2 ** sum(self.temporal_down)


class Stream:
    """What the layers of one chunk remember for the next, in the order of calls.

    `first` marks the chunk that starts a clip; `past` is what the chunk before left.
    Lives only while a chunk is traced: the jitted functions take and return lists.
    """

    def __init__(self, past: list[Array] | None):
        self.first = past is None
        self._past = iter(past or ())
        self.future: list[Array] = []

    def extend(self, x: Array, frames: int) -> Array:
        """`x` (B,T,H,W,C) with the `frames` frames before it; zeros at the start."""
        if self.first:
            past = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
        else:
            past = next(self._past)
        x = jnp.concatenate([past, x], axis=1)
        self.future.append(x[:, x.shape[1] - frames :])
        return x

    def remember_last(self, x: Array) -> Array:
        """`x` (B,T,H,W,C) after the last frame of the chunk before, if there is one."""
        if not self.first:
            x = jnp.concatenate([next(self._past), x], axis=1)
        self.future.append(x[:, -1:])
        return x


class Conv(nn.Module):
    """Causal k×k×k convolution: looks k−1 frames back, k//2 pixels around."""

    features: int
    kernel: int
    dtype: str

    @nn.compact
    def __call__(self, x_BTHWC: Array, stream: Stream) -> Array:
        k = self.kernel
        if k > 1:
            x_BTHWC = stream.extend(x_BTHWC, k - 1)
        pad = [(0, 0), (k // 2, k // 2), (k // 2, k // 2)]
        conv = nn.Conv(self.features, (k, k, k), padding=pad, dtype=self.dtype)
        return conv(x_BTHWC)


class Norm(nn.Module):
    """x / ‖x‖₂ · √C · γ over channels, in fp32."""

    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        mean_square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
        normed = (x32 * jax.lax.rsqrt(mean_square + TINY)).astype(self.dtype)
        return normed * gamma.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class ResBlock(nn.Module):
    """Norm, SiLU, conv, twice, plus the input (through 1×1×1 if widths differ)."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        h = nn.silu(Norm(self.dtype, name="norm1")(x))
        h = Conv(self.features, 3, self.dtype, name="conv1")(h, stream)
        h = nn.silu(Norm(self.dtype, name="norm2")(h))
        h = Conv(self.features, 3, self.dtype, name="conv2")(h, stream)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.dtype, name="shortcut")(x, stream)
        return x + h


class FrameAttention(nn.Module):
    """One head of self-attention among the positions of each frame."""

    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width, channels = x.shape[2:]
        h = Norm(self.dtype, name="norm")(x)
        h = rearrange(h, "b t h w c -> (b t) (h w) 1 c")
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        h = jax.nn.dot_product_attention(q, k, v)
        h = nn.Dense(channels, dtype=self.dtype, name="proj")(h)
        return x + rearrange(
            h, "(b t) (h w) 1 c -> b t h w c", b=x.shape[0], h=height, w=width
        )


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest scale."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        x = ResBlock(self.features, self.dtype, name="res_0")(x, stream)
        x = FrameAttention(self.dtype, name="attention")(x)
        return ResBlock(self.features, self.dtype, name="res_1")(x, stream)


class HalvingConv(nn.Module):
    """3×3 convolution of stride 2 over frames padded right and bottom, as Wan's.

    Written on 2×2 blocks of pixels with stride 1: a window reaches into the next
    block only, and XLA's gradient of a strided convolution is 10× slower on a CPU.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (1, 3, 3, c, c))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        kernel = jnp.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0), (0, 0)))
        kernel = rearrange(kernel, "1 (h p) (w q) i o -> 1 h w (p q i) o", p=2, q=2)
        x = rearrange(x, "b t (h p) (w q) c -> b t h w (p q c)", p=2, q=2)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(1, 1, 1),
            padding=((0, 0), (0, 1), (0, 1)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        return y + bias.astype(self.dtype).reshape(1, 1, 1, 1, c)


class TimeConv(nn.Module):
    """3×1×1 convolution without padding: a product, fast on every platform.

    Output j of n sees the frames stride·j, stride·j + 1 and stride·j + 2.
    """

    features: int
    dtype: str
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        last = x.shape[1] - 2
        taps = [x[:, i : last + i : self.stride] for i in range(3)]
        x = jnp.concatenate(taps, axis=-1).astype(self.dtype)
        y = x @ kernel.reshape(-1, self.features).astype(self.dtype)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)


class Down(nn.Module):
    """Halve height and width, then, if `temporal`, the frames after the first."""

    temporal: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        x = HalvingConv(self.dtype, name="conv")(x)
        if not self.temporal:
            return x
        first = x[:, :1]
        # Output j sees inputs 2j−2, 2j−1, 2j: a later chunk needs one frame more.
        x = stream.remember_last(x)
        if x.shape[1] < 3:  # an image
            return first
        y = TimeConv(x.shape[-1], self.dtype, stride=2, name="time_conv")(x)
        return jnp.concatenate([first, y], axis=1) if stream.first else y


class Up(nn.Module):
    """Double, if `temporal`, the frames after the first; then height and width."""

    features: int
    temporal: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        if self.temporal:
            x = self._double_frames(x, stream)
        x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
        pad = [(0, 0), (1, 1), (1, 1)]
        conv = nn.Conv(
            self.features, (1, 3, 3), padding=pad, dtype=self.dtype, name="conv"
        )
        return conv(x)

    def _double_frames(self, x: Array, stream: Stream) -> Array:
        # Frame 0 passes by and is never remembered; the first chunk's others see
        # zeros before them.
        first, later = (x[:, :1], x[:, 1:]) if stream.first else (x[:, :0], x)
        window = stream.extend(later, 2)
        if later.shape[1] == 0:
            return first
        time_conv = TimeConv(2 * x.shape[-1], self.dtype, name="time_conv")
        later = rearrange(time_conv(window), "b t h w (s c) -> b (t s) h w c", s=2)
        return jnp.concatenate([first, later], axis=1)


class Encoder(nn.Module):
    """Pixels (B,1+4k,H,W,3) to posterior moments (B,1+k,H/8,W/8,2z)."""

    cfg: VAEConfig

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        cfg, dtype = self.cfg, self.cfg.dtype
        x = Conv(cfg.base_width, 3, dtype, name="conv_in")(x.astype(dtype), stream)
        for i, m in enumerate(cfg.multipliers):
            for j in range(cfg.res_blocks):
                block = ResBlock(m * cfg.base_width, dtype, name=f"stage_{i}_res_{j}")
                x = block(x, stream)
            if i < len(cfg.temporal_down):
                down = Down(cfg.temporal_down[i], dtype, name=f"stage_{i}_down")
                x = down(x, stream)
        x = Middle(x.shape[-1], dtype, name="middle")(x, stream)
        x = nn.silu(Norm(dtype, name="norm_out")(x))
        x = Conv(2 * cfg.latent_channels, 3, dtype, name="conv_out")(x, stream)
        quant = Conv(2 * cfg.latent_channels, 1, "float32", name="quant")
        return quant(x.astype(jnp.float32), stream)


class Decoder(nn.Module):
    """Latents (B,1+k,h,w,z) to pixels (B,1+4k,8h,8w,3)."""

    cfg: VAEConfig

    @nn.compact
    def __call__(self, z: Array, stream: Stream) -> Array:
        cfg, dtype = self.cfg, self.cfg.dtype
        widths = [m * cfg.base_width for m in reversed(cfg.multipliers)]
        temporal_up = tuple(reversed(cfg.temporal_down))
        x = Conv(cfg.latent_channels, 1, dtype, name="post_quant")(z, stream)
        x = Conv(widths[0], 3, dtype, name="conv_in")(x.astype(dtype), stream)
        x = Middle(widths[0], dtype, name="middle")(x, stream)
        for i, width in enumerate(widths):
            for j in range(cfg.res_blocks + 1):
                x = ResBlock(width, dtype, name=f"stage_{i}_res_{j}")(x, stream)
            if i < len(temporal_up):
                # Channels halve here, not in the residual blocks.
                up = Up(width // 2, temporal_up[i], dtype, name=f"stage_{i}_up")
                x = up(x, stream)
        x = nn.silu(Norm(dtype, name="norm_out")(x))
        return Conv(3, 3, dtype, name="conv_out")(x, stream).astype(jnp.float32)


def init(key: PRNGKeyArray, cfg: VAEConfig) -> PyTree:
    """Fresh parameters: `{"encoder": …, "decoder": …}`, fp32."""
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
    """Posterior mean and log-variance (fp32, not normalised) of pixels in −1…1.

    t is 1 + 4k, h and w are multiples of 8. Raises ValueError otherwise.
    """
    frames, height, width = video.shape[1:4]
    if (frames - 1) % cfg.temporal or height % cfg.spatial or width % cfg.spatial:
        raise ValueError(
            f"a clip of {frames} frames of {width}x{height} pixels cannot be encoded: "
            f"expected 1 + {cfg.temporal}k frames and sides that are multiples of "
            f"{cfg.spatial}; crop it first"
        )
    mean, logvar, _ = encode_chunk(params, cfg, video, None)
    return mean, logvar


def decode(
    params: PyTree, cfg: VAEConfig, latents: Float[Array, "b tz hz wz z"]
) -> Float[Array, "b t h w 3"]:
    """Pixels in −1…1 (fp32) of latents that are not normalised."""
    return jnp.clip(decode_unclipped(params, cfg, latents), -1.0, 1.0)


def decode_unclipped(
    params: PyTree, cfg: VAEConfig, latents: Float[Array, "b tz hz wz z"]
) -> Float[Array, "b t h w 3"]:
    """`decode` before the clip to −1…1, whose gradient would be 0 beyond: for training."""
    return _decode(params, cfg, latents, Stream(None))


def encode_chunk(
    params: PyTree, cfg: VAEConfig, video: Array, past: list[Array] | None
) -> tuple[Array, Array, list[Array]]:
    """Mean, log-variance and what the next chunk needs; `past` is None at frame 0.

    The first chunk has 1 + 4k frames, each later one 4k.
    """
    stream = Stream(past)
    moments = Encoder(cfg).apply({"params": params["encoder"]}, video, stream)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0), stream.future


def decode_chunk(
    params: PyTree, cfg: VAEConfig, latents: Array, past: list[Array] | None
) -> tuple[Array, list[Array]]:
    """Pixels of some latent frames and what the next chunk needs."""
    stream = Stream(past)
    video = _decode(params, cfg, latents, stream)
    return jnp.clip(video, -1.0, 1.0), stream.future


def _decode(params: PyTree, cfg: VAEConfig, latents: Array, stream: Stream) -> Array:
    video = Decoder(cfg).apply({"params": params["decoder"]}, latents, stream)
    assert isinstance(video, jax.Array)
    return video


def normalise(cfg: VAEConfig, latents: Array) -> Array:
    """Latents (…,z) to zero mean and unit variance, as the diffusion sees them."""
    mean, std = _statistics(cfg, latents)
    return (latents - mean) / std


def denormalise(cfg: VAEConfig, latents: Array) -> Array:
    """The inverse of `normalise`."""
    mean, std = _statistics(cfg, latents)
    return latents * std + mean


def _statistics(cfg: VAEConfig, latents: Array) -> tuple[Array, Array]:
    if not cfg.latent_mean:
        raise ValueError("this VAE has no latent statistics; train or import it first")
    shape = (1,) * (latents.ndim - 1) + (-1,)
    mean = jnp.asarray(cfg.latent_mean, jnp.float32).reshape(shape)
    return mean, jnp.asarray(cfg.latent_std, jnp.float32).reshape(shape)

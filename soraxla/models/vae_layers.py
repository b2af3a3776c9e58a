"""Layers of the causal video VAE; those that look back remember by a `Stream`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from soraxla.types import Array

TINY = 1e-24  # ‖x‖₂/√C is floored at 1e-12; under the root, or 0 has a NaN gradient


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
    zero: bool = False
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x_BTHWC: Array, stream: Stream) -> Array:
        k = self.kernel
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        if k > 1:
            x_BTHWC = stream.extend(x_BTHWC, k - 1)
        pad = [(0, 0), (k // 2, k // 2), (k // 2, k // 2)]
        conv = nn.Conv(
            self.features,
            (k, k, k),
            padding=pad,
            dtype=self.dtype,
            kernel_init=init,
            bias_init=self.bias_init,
        )
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
        h = Conv(self.features, 3, self.dtype, zero=True, name="conv2")(h, stream)
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
        zero = nn.initializers.zeros
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=zero, name="proj")(h)
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
            jnp.asarray(x, self.dtype),
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

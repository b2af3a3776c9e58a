"""Layers of the causal video VAE; those that look back in time keep a `Stream`."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import PRNGKeyArray

from soraxla.core.types import Array
from soraxla.parallel.mesh import MESH_AXES, axis_size, constrain, current_mesh

TINY = 1e-24  # ‖x‖₂/√C is floored at 1e-12; under the root, or 0 has a NaN gradient


def by_height(x: Array) -> Array:
    """Cuts height over the mesh that is set; XLA fetches a convolution's other rows.

    Frames with fewer than two rows a device stay whole. XLA computes 3×3×3 convolutions
    of two single rows wrongly if the mesh cuts the clips too.
    """
    mesh = current_mesh()
    devices = 1 if mesh is None else axis_size(mesh, MESH_AXES["height"])
    enough = x.shape[2] >= 2 * devices
    return constrain(x, "batch", None, "height" if enough else None, None, None)


class Stream:
    """The last inputs of a chunk's layers, for the next chunk, in the order of calls.

    `first` marks the chunk that starts a clip; `past` is the `future` of the chunk
    before. A stream lives only while a chunk is traced: the jitted functions take and
    return lists.
    """

    def __init__(self, past: list[Array] | None):
        self.first = past is None
        self._past = iter(past or ())
        self.future: list[Array] = []

    def extend(self, x: Array, frames: int) -> Array:
        """Returns `x` (B,T,H,W,C) after the `frames` before it, zeros at the start."""
        if self.first:
            past = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
        else:
            past = next(self._past)
        x = jnp.concatenate([past, x], axis=1)
        self.future.append(x[:, x.shape[1] - frames :])
        return x

    def remember_last(self, x: Array) -> Array:
        """Returns `x` (B,T,H,W,C) after the last frame of the chunk before, if any."""
        if not self.first:
            x = jnp.concatenate([next(self._past), x], axis=1)
        self.future.append(x[:, -1:])
        return x


def orthogonal_at(*taps: tuple[int, ...]) -> Callable:
    """Returns an initializer of kernels (…,C,F): an orthogonal matrix, else zeros.

    The `taps` hold the matrix, which is (taps·C, F). With `ResBlock`s that start as the
    identity, a fresh VAE passes pixels on, not noise: it learns in a minute what
    Gaussian kernels learn in ten.
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32):
        *_, c, f = shape
        matrix = nn.initializers.orthogonal()(key, (len(taps) * c, f), dtype)
        kernel = jnp.zeros(shape, dtype)
        for tap, part in zip(taps, matrix.reshape(len(taps), c, f), strict=True):
            kernel = kernel.at[tap].set(part)
        return kernel

    return init


def convolve(
    x: Array, kernel: Array, bias: Array, padding: Sequence[tuple[int, int]], dtype: str
) -> Array:
    """Convolves (B,T,H,W,C) * (t,h,w,C,F) + (F,) with stride 1, in `dtype`."""
    y = jax.lax.conv_general_dilated(
        jnp.asarray(x, dtype),
        jnp.asarray(kernel, dtype),
        window_strides=(1, 1, 1),
        padding=padding,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return y + bias.astype(dtype).reshape(1, 1, 1, 1, -1)


class Conv(nn.Module):
    """Causal k×k×k convolution: looks k−1 frames back, k//2 pixels around."""

    features: int
    kernel: int
    dtype: str
    zero: bool = False
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        k = self.kernel
        centre = (k - 1, k // 2, k // 2)
        init = nn.initializers.zeros if self.zero else orthogonal_at(centre)
        kernel = self.param("kernel", init, (k, k, k, x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        if k > 1:
            picture = stream.first and x.shape[1] == 1
            past = stream.extend(x, k - 1)
            # The frames before a picture are zeros, so the last tap suffices.
            x, kernel = (x, kernel[-1:]) if picture else (past, kernel)
        half = (k // 2, k // 2)
        return convolve(x, kernel, bias, ((0, 0), half, half), self.dtype)


class FrameConv(nn.Module):
    """3×3 convolution of each frame."""

    features: int
    dtype: str
    zero: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (1, 3, 3, x.shape[-1], self.features)
        init = nn.initializers.zeros if self.zero else orthogonal_at((0, 1, 1))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return convolve(x, kernel, bias, ((0, 0), (1, 1), (1, 1)), self.dtype)


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
        init = orthogonal_at((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1))
        kernel = self.param("kernel", init, (1, 3, 3, c, c))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        kernel = jnp.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0), (0, 0)))
        kernel = rearrange(kernel, "1 (h p) (w q) i o -> 1 h w (p q i) o", p=2, q=2)
        x = rearrange(x, "b t (h p) (w q) c -> b t h w (p q c)", p=2, q=2)
        return convolve(x, kernel, bias, ((0, 0), (0, 1), (0, 1)), self.dtype)


class TimeConv(nn.Module):
    """3×1×1 convolution without padding: a product, fast on every platform.

    Output j of n sees the frames stride·j, stride·j + 1 and stride·j + 2. It starts as
    the mean of the last `stride` of them, repeated `features` / C times, a whole
    number: a still clip passes through as a picture does.
    """

    features: int
    dtype: str
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, x.shape[-1], self.features)
        kernel = self.param("kernel", self._mean_of_last, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        last = x.shape[1] - 2
        taps = [x[:, i : last + i : self.stride] for i in range(3)]
        x = jnp.concatenate(taps, axis=-1).astype(self.dtype)
        y = x @ kernel.reshape(-1, self.features).astype(self.dtype)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, 1, -1)

    def _mean_of_last(self, key: Array, shape: tuple[int, ...]) -> Array:
        identity = jnp.tile(jnp.eye(shape[1]), (1, self.features // shape[1]))
        return jnp.zeros(shape).at[-self.stride :].set(identity / self.stride)


class Down(nn.Module):
    """Halving of height and width, then, if `temporal`, of frames after the first."""

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
    """Doubling, if `temporal`, of frames after the first; then of height and width."""

    features: int
    temporal: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        if self.temporal:
            x = self._double_frames(x, stream)
        x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
        return FrameConv(self.features, self.dtype, name="conv")(x)

    def _double_frames(self, x: Array, stream: Stream) -> Array:
        # Frame 0 is neither doubled nor kept, so the frames after it see zeros.
        first, later = (x[:, :1], x[:, 1:]) if stream.first else (x[:, :0], x)
        window = stream.extend(later, 2)
        if later.shape[1] == 0:
            return first
        time_conv = TimeConv(2 * x.shape[-1], self.dtype, name="time_conv")
        later = rearrange(time_conv(window), "b t h w (s c) -> b (t s) h w c", s=2)
        return jnp.concatenate([first, later], axis=1)

"""Layers of the diffusion transformer, as in Wan 2.1.

They compute in `cfg.dtype`, except in fp32: norms, modulation and gated residual sums.
Parameters are fp32.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from soraxla.core.types import Array
from soraxla.models.dit.config import DiTConfig
from soraxla.ops.attention import attention
from soraxla.ops.causal import causal_attention
from soraxla.ops.linear import affine
from soraxla.ops.rope import rotate
from soraxla.parallel.mesh import constrain

_EPS = 1e-6


@runtime_checkable  # for type checks in tests
class Widths(Protocol):
    """The settings of a transformer that its attention and blocks read."""

    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def dtype(self) -> str: ...


class Context(NamedTuple):
    """The inputs of every block beside the tokens; the same for all layers."""

    segment_ids: Int[Array, "b l"]
    cos: Float[Array, "b l half"]
    sin: Float[Array, "b l half"]
    modulation: Float[
        Array, "b r 6 d"
    ]  # r = 2S: generated and condition tokens per segment; 3S with a second time
    row: Int[Array, "b l"]  # the token's row of `modulation`
    text: Float[Array, "b m d"] | None  # None: blocks get keys and values
    text_segment_ids: Int[Array, "b m"]
    text_bias: Float[Array, "b m"] | None
    near: Int[Array, "b l 10"] | None  # neighbours, for the local layers
    forecast: Float[Array, "b l p"] | None  # of the tokens, from the frames before


@jax.custom_vjp
def gather_rows(
    table: Float[Array, "b r d"], row: Int[Array, "b l"]
) -> Float[Array, "b l d"]:
    """Returns `table[b, row[b, l]]`; its gradient is a matrix product, not a scatter.

    Scatter-add runs one row after another on CPU and TPU, and in no fixed order on GPU.
    """
    return jnp.take_along_axis(table, row[:, :, None], axis=1)


def _gather_fwd(table, row):
    return gather_rows(table, row), (row, table.shape[1])


def _gather_bwd(saved, grad_BLD):
    row_BL, rows = saved
    picked = row_BL[:, :, None] == jnp.arange(rows, dtype=row_BL.dtype)[None, None, :]
    grad = jnp.einsum(
        "blr,bld->brd",
        picked.astype(grad_BLD.dtype),
        grad_BLD,
        precision=jax.lax.Precision.HIGHEST,
    )
    return grad, None


gather_rows.defvjp(_gather_fwd, _gather_bwd)


def layer_norm(x: Float[Array, "b l d"], eps: float = _EPS) -> Float[Array, "b l d"]:
    """Applies layer norm without gain or bias, from any dtype to fp32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


class AffineLayerNorm(nn.Module):
    """Layer norm with gain and bias, from any dtype to fp32."""

    eps: float = _EPS

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, self.eps) * scale[None, None, :] + bias[None, None, :]


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain, from any dtype to fp32 (arXiv 1910.07467)."""

    eps: float = _EPS

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return x * scale[None, None, :]


class Linear(nn.Module):
    """A linear layer x·kernel + bias, plus (x·a)·b if the collection `lora` has them.

    Adding the product to the kernel would make a second kernel, and a second gradient.

    Attributes:
        dtype: of the operands.
        out_dtype: of the product; `dtype` if None.
    """

    features: int
    dtype: Any
    kernel_init: nn.initializers.Initializer
    out_dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b l i"]) -> Float[Array, "b l o"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))

        def cast(*arrays: Array) -> list[Array]:
            return [jnp.asarray(array, self.dtype) for array in arrays]

        x, kernel, bias = cast(x, kernel, bias)
        y = affine(x, kernel, bias, self.out_dtype)
        if self.has_variable("lora", "a"):
            a, b = cast(*(self.get_variable("lora", name) for name in "ab"))
            y = y + affine(affine(x, a), b, dtype=self.out_dtype)
        return y


def linear(features: int, dtype, *, zero: bool = False, name: str | None = None):
    """Returns a linear layer: Xavier uniform as in DiT, or all zero."""
    init = nn.initializers.zeros if zero else nn.initializers.xavier_uniform()
    return Linear(features, dtype, init, name=name)


class Attention(nn.Module):
    """Multi-head attention; RMS norm of q and k over the full width, before the split.

    Attributes:
        zero: start with a zero output projection.
        axes: logical axes of queries and of keys.
    """

    cfg: Widths
    zero: bool = False
    axes: tuple[str, str] = ("tokens", "tokens")

    def setup(self) -> None:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        self.q, self.k, self.v = (linear(cfg.width, dtype) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(), RMSNorm()
        self.o = linear(cfg.width, dtype, zero=self.zero)

    def keys_values(
        self,
        source: Float[Array, "b m d"],
        rotary: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "b m n k"], Float[Array, "b m n k"]]:
        """Returns keys and values of `source`."""
        keys = self._heads(self.norm_k(self.k(source)), rotary)
        return keys, self._heads(self.v(source))

    def __call__(
        self,
        x: Float[Array, "b l d"],
        keys: Float[Array, "b m n k"],
        values: Float[Array, "b m n k"],
        segment_ids: Int[Array, "b l"],
        source_segment_ids: Int[Array, "b m"],
        *,
        rotary: tuple[Array, Array] | None = None,
        source_bias: Float[Array, "b m"] | None = None,
        order: tuple[Int[Array, "b l"], Int[Array, "b m"]] | None = None,
    ) -> Float[Array, "b l d"]:
        """Returns the attention of x; `rotary` rotates its queries.

        Args:
            order: indices of queries and of keys, of a causal attention.
        """
        queries = self._heads(self.norm_q(self.q(x)), rotary)
        # Kept for `capture` only; nothing is computed or stored otherwise.
        self.sow("intermediates", "queries", queries)
        self.sow("intermediates", "keys", keys)
        ids = {"q_segment_ids": segment_ids, "kv_segment_ids": source_segment_ids}
        if order is None:
            name, axes = self.name or "attn", self.axes
            more = {"kv_bias": source_bias, "axes": axes, "name": name}
            out = attention(queries, keys, values, **ids, **more)
        else:
            more = dict(zip(("q_index", "kv_index"), order, strict=True))
            out = causal_attention(queries, keys, values, **ids, **more)
        return self.o(out.reshape(*out.shape[:2], self.cfg.width))

    def _heads(self, y: Array, rotary: tuple[Array, Array] | None = None) -> Array:
        y = y.reshape(*y.shape[:2], self.cfg.heads, self.cfg.head_dim)
        return (rotate(y, *rotary) if rotary else y).astype(self.cfg.dtype)


class CopyAttention(nn.Module):
    """Attention from hidden states to the input tokens themselves as values.

    It has as many heads as an input token fills. No layer follows the values, so a
    token of more numbers than the width can be copied whole, as a pointer network
    copies words (arXiv 1704.04368).
    """

    cfg: DiTConfig

    @nn.compact
    def __call__(
        self, h: Float[Array, "b l d"], x: Float[Array, "b l p"], ctx: Context
    ) -> Float[Array, "b l p"]:
        dtype, size = jnp.dtype(self.cfg.dtype), self.cfg.head_dim
        numbers = x.shape[-1]
        heads = -(-numbers // size)

        def split(y: Array) -> Array:
            return y.reshape(*y.shape[:2], heads, size)

        def rotated(name: str) -> Array:
            y = linear(heads * size, dtype, name=name)(h)
            y = RMSNorm(name=f"norm_{name}")(y)
            return rotate(split(y), ctx.cos, ctx.sin).astype(dtype)

        padded = jnp.pad(x, ((0, 0), (0, 0), (0, heads * size - numbers)))
        out = attention(
            rotated("q"),
            rotated("k"),
            split(padded).astype(dtype),
            q_segment_ids=ctx.segment_ids,
            kv_segment_ids=ctx.segment_ids,
            name="copy_attn",
        )
        return out.reshape(*out.shape[:2], -1)[:, :, :numbers].astype(jnp.float32)


class MLP(nn.Module):
    """A perceptron: linear, tanh-GELU, linear.

    Attributes:
        zero: start with a zero second layer.
        axis: the logical axis of l.
    """

    hidden: int
    features: int
    dtype: jnp.dtype
    zero: bool = False
    axis: str = "tokens"

    @nn.compact
    def __call__(self, x: Float[Array, "b l e"]) -> Float[Array, "b l d"]:
        x = linear(self.hidden, self.dtype, name="in_proj")(x)
        x = nn.gelu(constrain(x, "batch", self.axis, "mlp"), approximate=True)
        return linear(self.features, self.dtype, zero=self.zero, name="out_proj")(x)


class Block(nn.Module):
    """Self-attention, cross-attention to the text, MLP; the first and last modulated.

    Shift, scale and gate are the block's table plus the token's row of the modulation,
    gathered at their use. All start at 0 (adaLN-zero, arXiv 2212.09748), so at the
    start cross-attention is the only open branch. The signature is that of a scan's
    body. `text` has keys and values of the cross-attention, if they are already
    computed.
    """

    cfg: DiTConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        ctx: Context,
        text: tuple[Float[Array, "b m n k"], Float[Array, "b m n k"]] | None = None,
    ) -> tuple[Float[Array, "b l d"], None]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        table = self.param("table", nn.initializers.zeros, (6, cfg.width))
        rows_BR6D = table[None, None, :, :] + ctx.modulation

        def token(i: int) -> Array:
            return gather_rows(rows_BR6D[:, :, i, :], ctx.row)

        h = (layer_norm(x) * (1.0 + token(1)) + token(0)).astype(dtype)
        attn, rotary = Attention(cfg, name="self_attn"), (ctx.cos, ctx.sin)
        keys, values = attn.keys_values(h, rotary)
        h = attn(h, keys, values, ctx.segment_ids, ctx.segment_ids, rotary=rotary)
        x = add_gated(x, h, token(2))
        h = AffineLayerNorm(name="cross_norm")(x).astype(dtype)
        attn = Attention(cfg, axes=("tokens", "text"), name="cross_attn")
        h = attn(
            h,
            *(attn.keys_values(jnp.asarray(ctx.text)) if text is None else text),
            ctx.segment_ids,
            ctx.text_segment_ids,
            source_bias=ctx.text_bias,
        )
        x = x + h
        h = (layer_norm(x) * (1.0 + token(4)) + token(3)).astype(dtype)
        h = MLP(cfg.mlp_width, cfg.width, dtype, name="mlp")(h)
        return constrain(add_gated(x, h, token(5)), "batch", "tokens", None), None


def add_gated(
    x: Float[Array, "b l d"], y: Float[Array, "b l d"], gate: Float[Array, "b l d"]
) -> Float[Array, "b l d"]:
    """Returns x + gate·y summed in fp32, in the dtype of x."""
    return (x.astype(jnp.float32) + gate * y.astype(jnp.float32)).astype(x.dtype)


class PreNormBlock(nn.Module):
    """One pre-norm transformer block over each segment's tokens.

    It starts as the identity: both branches end in a zero projection. The signature is
    that of a scan's body.

    Attributes:
        hidden: hidden units of the MLP.
        axis: the logical axis of l.
    """

    cfg: Widths
    hidden: int
    axis: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        segment_ids: Int[Array, "b l"],
        rotary: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "b l d"], None]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        h = AffineLayerNorm(name="attn_norm")(x).astype(dtype)
        attn = Attention(cfg, zero=True, axes=(self.axis, self.axis), name="attn")
        keys, values = attn.keys_values(h, rotary)
        x = x + attn(h, keys, values, segment_ids, segment_ids, rotary=rotary)
        h = AffineLayerNorm(name="mlp_norm")(x).astype(dtype)
        mlp = MLP(self.hidden, cfg.width, dtype, zero=True, axis=self.axis, name="mlp")
        return x + mlp(h), None

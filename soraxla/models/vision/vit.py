"""Blocks of vision transformers (arXiv 2010.11929), fp32 on every platform."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from soraxla.core.types import Array
from soraxla.models.dit.layers import layer_norm
from soraxla.models.text.layers import ACTIVATIONS, check_activation, check_heads

_EXACT = jax.lax.Precision.HIGHEST

# Turns queries or keys, one row per token.
Rotate = Callable[[Float[Array, "b n heads k"]], Float[Array, "b n heads k"]]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Settings of all vision transformers, named as in `config.json`.

    Attributes:
        hidden_size: channels of a token.
        num_hidden_layers: transformer blocks.
        num_attention_heads: attention heads.
        hidden_act: the activation of the MLP.
        layer_norm_eps: added to the variance in a norm.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_activation(self.hidden_act, "hidden_act")
        check_heads(self.hidden_size, self.num_attention_heads)


def shape(*sides: int) -> jax.ShapeDtypeStruct:
    """Returns an fp32 parameter's shape."""
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def block_shapes(
    cfg: ViTConfig,
    hidden: int,
    *,
    biased: str = "qkv",
    gated: bool = False,
    scaled: bool = False,
) -> PyTree:
    """Returns the shapes of the blocks' parameters, stacked.

    Args:
        hidden: width of the MLP.
        biased: projections with a bias, of "qkv".
        gated: the MLP's input is twice as wide, and half of it gates the other.
        scaled: both branches end with a gain per channel (arXiv 2103.17239).
    """
    n, d = cfg.num_hidden_layers, cfg.hidden_size

    def dense(inputs: int, outputs: int, bias: bool = True) -> PyTree:
        kernel = {"kernel": shape(n, inputs, outputs)}
        return kernel | ({"bias": shape(n, outputs)} if bias else {})

    norm = {"scale": shape(n, d), "bias": shape(n, d)}
    found = {x: dense(d, d, x in biased) for x in "qkv"}
    found |= {"o": dense(d, d), "attn_norm": norm, "mlp_norm": dict(norm)}
    found |= {"mlp_in": dense(d, hidden * (1 + gated)), "mlp_out": dense(hidden, d)}
    if scaled:
        found |= {"attn_gain": shape(n, d), "mlp_gain": shape(n, d)}
    return found


def blocks(
    x: Float[Array, "b n d"],
    params: PyTree,
    cfg: ViTConfig,
    rotate: Rotate = lambda x: x,
) -> Float[Array, "b n d"]:
    """Returns the tokens after all blocks: attention and an MLP, each after its norm.

    Args:
        rotate: of queries and keys.
    """

    def step(x: Array, p: Mapping[str, Any]) -> tuple[Array, None]:
        h = _attention(norm(x, p["attn_norm"], cfg.layer_norm_eps), p, cfg, rotate)
        x = x + _scaled(h, p, "attn_gain")
        h = dense(norm(x, p["mlp_norm"], cfg.layer_norm_eps), p["mlp_in"])
        if h.shape[-1] != p["mlp_out"]["kernel"].shape[0]:
            gate, h = jnp.split(h, 2, axis=-1)
            h = jax.nn.silu(gate) * h
        else:
            h = ACTIVATIONS[cfg.hidden_act](jnp.asarray(h))
        return x + _scaled(dense(h, p["mlp_out"]), p, "mlp_gain"), None

    return jax.lax.scan(step, x, params)[0]


def _attention(x: Array, p: Mapping[str, Any], cfg: ViTConfig, rotate: Rotate) -> Array:
    b, n, d = x.shape
    heads = cfg.num_attention_heads
    q, k, v = (dense(x, p[name]).reshape(b, n, heads, d // heads) for name in "qkv")
    q, k = rotate(q), rotate(k)
    logits = jnp.einsum("bqhk,bmhk->bhqm", q, k, precision=_EXACT)
    weights = jax.nn.softmax(logits * (d // heads) ** -0.5, axis=-1)
    out = jnp.einsum("bhqm,bmhk->bqhk", weights, v, precision=_EXACT)
    return dense(out.reshape(b, n, d), p["o"])


def _scaled(x: Array, p: Mapping[str, Any], name: str) -> Array:
    return x * p[name].reshape(1, 1, -1) if name in p else x


def dense(x: Float[Array, "b n i"], p: Mapping[str, Any]) -> Float[Array, "b n o"]:
    """Returns x·kernel + bias; there may be no bias."""
    y = jnp.einsum("bni,io->bno", x, p["kernel"], precision=_EXACT)
    return y + p["bias"].reshape(1, 1, -1) if "bias" in p else y


def norm(
    x: Float[Array, "b n d"], p: Mapping[str, Any], eps: float
) -> Float[Array, "b n d"]:
    """Applies layer norm with gain and bias."""
    gain, bias = (p[name].reshape(1, 1, -1) for name in ("scale", "bias"))
    return layer_norm(x, eps) * gain + bias


def tubelets(
    video: Float[Array, "b t h w 3"], frames: int, side: int
) -> Float[Array, "b n p"]:
    """Returns blocks of `frames` × `side` × `side` pixels as rows, channels first.

    The order of rows is time, height, width.
    """
    b, t, h, w, c = video.shape
    t, h, w = t // frames, h // side, w // side
    x = video.reshape(b, t, frames, h, side, w, side, c)
    return x.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, t * h * w, -1)

"""The encoders of T5 (arXiv 1910.10683) and umT5 (arXiv 2304.09151).

Pre-norm blocks have no biases; attention is not scaled, and its logits gain a learned
bias for each head and bucket of relative positions. T5 has one table of them for all
layers, umT5 one for every layer.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Int, PyTree

from soraxla.core.types import Array
from soraxla.models.dit.layers import RMSNorm
from soraxla.models.text import folder as hf
from soraxla.models.text.layers import (
    ACTIVATIONS,
    SelfAttention,
    check_activation,
    dense,
    mask_bias,
    scan_blocks,
)
from soraxla.parallel.mesh import Rules

_T5 = {"t5": "google-t5/t5-base or google/flan-t5-base"}
_UMT5 = {"umt5": "the text_encoder of Wan-AI/Wan2.1-T2V-1.3B-Diffusers"}

RULES: Rules = (
    (r"embed\.embedding", (None, "embed")),
    (r"self_attn\.[qkv]\.kernel", ("embed", "heads")),
    (r"self_attn\.o\.kernel", ("heads", "embed")),
    (r"mlp_(in|gate)\.kernel", ("embed", "mlp")),
    (r"mlp_out\.kernel", ("mlp", "embed")),
    (r".*(scale|position_bias\.embedding)", ()),
)


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Settings named as in `config.json`; the defaults are those of absent keys.

    Attributes:
        feed_forward_proj: an activation, with the prefix `gated-` for a gated MLP.
        biased_layers: each layer has a table of position biases (umT5), or all share
            the first's (T5).
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    biased_layers: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_activation(self.activation, "feed_forward_proj")

    @property
    def gated(self) -> bool:
        """True if a second projection multiplies the MLP's activations."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """The name in `ACTIVATIONS`; a gated GELU is always the tanh one."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name


@dataclass(frozen=True, kw_only=True)
class UMT5Config(T5Config):
    """`T5Config` with umT5's defaults."""

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    biased_layers: bool = True


def init(key: jax.Array, cfg: T5Config) -> PyTree:
    """Returns random parameters."""
    ids, valid = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    return Encoder(cfg).init(key, ids, valid)["params"]


def apply(
    params: PyTree, cfg: T5Config, ids: Int[Array, "b m"], valid: Bool[Array, "b m"]
) -> Float[Array, "b m e"]:
    """Returns the last hidden states, fp32; those of padding are meaningless."""
    return Encoder(cfg).apply({"params": params}, ids, valid)  # pyright: ignore


def load_t5(folder: Path, dtype: str) -> tuple[PyTree, T5Config]:
    """Loads parameters and settings of a local T5 folder.

    Raises:
        UserError: as `folder.read_config` and `folder.load_params`.
    """
    config = hf.read_config(folder, _T5)
    return _load(folder, hf.settings(T5Config, config, folder, dtype=dtype))


def load_umt5(folder: Path, dtype: str) -> tuple[PyTree, T5Config]:
    """Loads parameters and settings of a local umT5 folder; raises as `load_t5`."""
    config = hf.read_config(folder, _UMT5)
    return _load(folder, hf.settings(UMT5Config, config, folder, dtype=dtype))


def buckets(length: int, cfg: T5Config) -> Int[np.ndarray, "m m"]:
    """Returns the bucket of key − query for each (query, key).

    One half of the buckets is for keys behind, one for those ahead. The nearest
    distances have a bucket each, larger ones logarithmically wider buckets up to the
    greatest distance, and all beyond share the last.
    """
    half = cfg.relative_attention_num_buckets // 2
    exact = half // 2
    place = np.arange(length)
    offset = place[None, :] - place[:, None]
    distance = np.abs(offset)
    # fp32 in this order, as in training: a distance on an edge must keep its bucket.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(np.log(cfg.relative_attention_max_distance / exact))
    far = exact + (ratio * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return bucket + half * (offset > 0)


class PositionBias(nn.Module):
    """A table of one learned number per bucket and head, fp32."""

    cfg: T5Config

    @nn.compact
    def __call__(self, length: int) -> Float[Array, "1 n m m"]:
        shape = (self.cfg.relative_attention_num_buckets, self.cfg.num_heads)
        table = self.param("embedding", nn.initializers.normal(1.0), shape)
        return table[buckets(length, self.cfg)].transpose(2, 0, 1)[None]


class Block(nn.Module):
    """One block, x + attention(norm(x)), then x + mlp(norm(x)); the body of a scan."""

    cfg: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], bias: Float[Array, "#b #n #m m"]
    ) -> tuple[Float[Array, "b m d"], None]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        if cfg.biased_layers:
            bias = bias + PositionBias(cfg, name="position_bias")(x.shape[1])
        h = RMSNorm(cfg.layer_norm_epsilon, name="attn_norm")(x).astype(dtype)
        x = x + SelfAttention(
            cfg.num_heads, cfg.d_kv, 1.0, False, dtype, name="self_attn"
        )(h, bias)
        h = RMSNorm(cfg.layer_norm_epsilon, name="mlp_norm")(x).astype(dtype)
        y = dense(cfg.d_ff, dtype, use_bias=False, name="mlp_in")(h)
        y = ACTIVATIONS[cfg.activation](y)
        if cfg.gated:
            y = y * dense(cfg.d_ff, dtype, use_bias=False, name="mlp_gate")(h)
        y = dense(cfg.d_model, dtype, use_bias=False, name="mlp_out")(y)
        return x + y.astype(jnp.float32), None


class Encoder(nn.Module):
    """The embedding, the blocks and the norm."""

    cfg: T5Config

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b m"], valid: Bool[Array, "b m"]
    ) -> Float[Array, "b m e"]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        embed = nn.Embed(cfg.vocab_size, cfg.d_model, param_dtype=dtype, name="embed")
        x = embed(ids).astype(jnp.float32)
        bias = mask_bias(valid)
        if not cfg.biased_layers:
            bias = bias + PositionBias(cfg, name="position_bias")(ids.shape[1])
        x, _ = scan_blocks(Block, cfg.num_layers)(cfg, name="blocks")(x, bias)
        return RMSNorm(cfg.layer_norm_epsilon, name="final_norm")(x)


def _load(folder: Path, cfg: T5Config) -> tuple[PyTree, T5Config]:
    abstract = jax.eval_shape(lambda: init(jax.random.key(0), cfg))
    return hf.load_params(folder, abstract, _names(cfg), _canonical, RULES), cfg


def _canonical(name: str) -> str | None:
    if name.startswith(("decoder.", "lm_head.")):
        return None
    return "shared.weight" if name == "encoder.embed_tokens.weight" else name


def _names(cfg: T5Config) -> dict[str, str]:
    attention = "encoder.block.{}.layer.0."
    mlp = "encoder.block.{}.layer.1."
    table = "SelfAttention.relative_attention_bias"
    gate = {"mlp_in": "wi_0", "mlp_gate": "wi_1"} if cfg.gated else {"mlp_in": "wi"}
    names = {
        "embed": "shared",
        "position_bias": attention.format(0) + table,
        "blocks.position_bias": attention + table,
        "blocks.attn_norm": f"{attention}layer_norm",
        "blocks.mlp_norm": f"{mlp}layer_norm",
        "final_norm": "encoder.final_layer_norm",
    }
    names |= {f"blocks.self_attn.{x}": f"{attention}SelfAttention.{x}" for x in "qkvo"}
    names |= {
        f"blocks.{ours}": f"{mlp}DenseReluDense.{theirs}"
        for ours, theirs in (gate | {"mlp_out": "wo"}).items()
    }
    return names

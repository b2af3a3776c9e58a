"""BERT (arXiv 1810.04805), and MiniLM sentence encoders (arXiv 2002.10957) like it.

Post-norm blocks over the sum of embeddings of word, position and (always the first)
token type.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int, PyTree

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.models.dit.layers import AffineLayerNorm
from soraxla.models.text import folder as hf
from soraxla.models.text.layers import (
    ACTIVATIONS,
    SelfAttention,
    check_activation,
    check_heads,
    dense,
    mask_bias,
    scan_blocks,
)

_BERT = {"bert": "google-bert/bert-base-uncased"}


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Settings named as in `config.json`; the defaults are those of absent keys."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_activation(self.hidden_act, "hidden_act")
        if self.position_embedding_type != "absolute":
            raise UserError(
                f"position_embedding_type is {self.position_embedding_type!r}, "
                "expected 'absolute'; use a BERT with learned absolute positions"
            )
        check_heads(self.hidden_size, self.num_attention_heads)


def init(key: jax.Array, cfg: BertConfig) -> PyTree:
    """Returns random parameters."""
    ids, valid = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    return Encoder(cfg).init(key, ids, valid)["params"]


def apply(
    params: PyTree, cfg: BertConfig, ids: Int[Array, "b m"], valid: Bool[Array, "b m"]
) -> Float[Array, "b m e"]:
    """Returns the last hidden states, fp32; those of padding are meaningless."""
    return Encoder(cfg).apply({"params": params}, ids, valid)  # pyright: ignore


def load(folder: Path, dtype: str) -> tuple[PyTree, BertConfig]:
    """Loads parameters and settings of a local BERT folder.

    Raises:
        UserError: as `folder.read_config` and `folder.load_params`.
    """
    cfg = hf.settings(BertConfig, hf.read_config(folder, _BERT), folder, dtype=dtype)
    abstract = jax.eval_shape(lambda: init(jax.random.key(0), cfg))
    return hf.load_params(folder, abstract, _NAMES, _canonical), cfg


class Block(nn.Module):
    """One block, norm(x + attention(x)), then norm(x + mlp(x)); the body of a scan."""

    cfg: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], bias: Float[Array, "#b #n #m m"]
    ) -> tuple[Float[Array, "b m d"], None]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        heads, head_dim = (
            cfg.num_attention_heads,
            cfg.hidden_size // cfg.num_attention_heads,
        )
        attn = SelfAttention(
            heads, head_dim, head_dim**-0.5, True, dtype, name="self_attn"
        )
        x = x + attn(x.astype(dtype), bias)
        x = AffineLayerNorm(cfg.layer_norm_eps, name="attn_norm")(x)
        y = dense(cfg.intermediate_size, dtype, use_bias=True, name="mlp_in")(x)
        y = ACTIVATIONS[cfg.hidden_act](y)
        y = dense(cfg.hidden_size, dtype, use_bias=True, name="mlp_out")(y)
        x = x + y.astype(jnp.float32)
        return AffineLayerNorm(cfg.layer_norm_eps, name="mlp_norm")(x), None


class Encoder(nn.Module):
    """The embedding, the norm and the blocks."""

    cfg: BertConfig

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b m"], valid: Bool[Array, "b m"]
    ) -> Float[Array, "b m e"]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, cfg.hidden_size, param_dtype=dtype, name=name)

        places, kinds = jnp.arange(ids.shape[1])[None], jnp.zeros_like(ids)
        x = table(cfg.vocab_size, "words")(ids).astype(jnp.float32)
        x = x + table(cfg.max_position_embeddings, "places")(places)
        x = x + table(cfg.type_vocab_size, "kinds")(kinds)
        x = AffineLayerNorm(cfg.layer_norm_eps, name="embed_norm")(x)
        blocks = scan_blocks(Block, cfg.num_hidden_layers)(cfg, name="blocks")
        return blocks(x, mask_bias(valid))[0]


def _canonical(name: str) -> str | None:
    name = name.removeprefix("bert.")
    if name.startswith(("pooler.", "cls.")) or name == "embeddings.position_ids":
        return None
    # The oldest files name the norms' gain and bias like this.
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


_LAYER = "encoder.layer.{}."
_NAMES = {
    "words": "embeddings.word_embeddings",
    "places": "embeddings.position_embeddings",
    "kinds": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "blocks.self_attn.q": f"{_LAYER}attention.self.query",
    "blocks.self_attn.k": f"{_LAYER}attention.self.key",
    "blocks.self_attn.v": f"{_LAYER}attention.self.value",
    "blocks.self_attn.o": f"{_LAYER}attention.output.dense",
    "blocks.attn_norm": f"{_LAYER}attention.output.LayerNorm",
    "blocks.mlp_in": f"{_LAYER}intermediate.dense",
    "blocks.mlp_out": f"{_LAYER}output.dense",
    "blocks.mlp_norm": f"{_LAYER}output.LayerNorm",
}

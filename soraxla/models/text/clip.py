"""The text tower of CLIP (arXiv 2103.00020): a causal pre-norm transformer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int, PyTree

from soraxla.core.types import Array
from soraxla.models.dit.layers import AffineLayerNorm
from soraxla.models.text import folder as hf
from soraxla.models.text.layers import (
    ACTIVATIONS,
    SelfAttention,
    causal_bias,
    check_activation,
    check_heads,
    dense,
    mask_bias,
    scan_blocks,
)

WHERE = "openai/clip-vit-large-patch14"
_LEGACY_EOS = 2  # an end token's id in old files; the real one is the highest


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Settings of both towers, named as in `config.json`, with defaults of absent keys.

    Attributes:
        hidden_size: channels of a token.
        intermediate_size: hidden units of a block's MLP.
        num_attention_heads: attention heads.
        num_hidden_layers: transformer blocks.
        hidden_act: the activation of the MLP.
        layer_norm_eps: added to the variance in a norm.
        dtype: of parameters and matmuls.
        projection_dim: width of the space that both towers share; 0 without a
            projection.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_activation(self.hidden_act, "hidden_act")
        check_heads(self.hidden_size, self.num_attention_heads)


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TowerConfig):
    """The settings of the text tower."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407


def init(key: jax.Array, cfg: CLIPTextConfig) -> PyTree:
    """Returns random parameters."""
    ids, valid = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    return TextTower(cfg).init(key, ids, valid)["params"]


def apply(
    params: PyTree,
    cfg: CLIPTextConfig,
    ids: Int[Array, "b m"],
    valid: Bool[Array, "b m"],
) -> Float[Array, "b m e"]:
    """Returns the last hidden states, normed, fp32; padding has meaningless ones."""
    return TextTower(cfg).apply({"params": params}, ids, valid)[0]  # pyright: ignore


def embed_texts(
    params: PyTree,
    cfg: CLIPTextConfig,
    ids: Int[Array, "b m"],
    valid: Bool[Array, "b m"],
) -> Float[Array, "b p"]:
    """Returns texts in the space shared with images, not normalised."""
    return TextTower(cfg).apply({"params": params}, ids, valid)[1]  # pyright: ignore


def load(
    folder: Path, dtype: str, *, projected: bool = False
) -> tuple[PyTree, CLIPTextConfig]:
    """Loads parameters and settings of the text tower of a local CLIP folder.

    Args:
        projected: with the projection that `embed_texts` needs.

    Raises:
        UserError: as `folder.read_config` and `folder.load_params`.
    """
    cfg = tower_settings(CLIPTextConfig, folder, dtype, projected=projected)
    abstract = jax.eval_shape(lambda: init(jax.random.key(0), cfg))
    names = block_names() | {
        "tokens": "embeddings.token_embedding",
        "places": "embeddings.position_embedding",
        "final_norm": "final_layer_norm",
        "projection": "text_projection",
    }

    def canonical(name: str) -> str | None:
        other = ("vision_model.", "visual_projection.", "logit_scale")
        if name.startswith(other) or name.endswith("embeddings.position_ids"):
            return None
        if name == "text_projection.weight" and not projected:
            return None
        return name.removeprefix("text_model.")

    return hf.load_params(folder, abstract, names, canonical), cfg


def tower_settings(cls: type[Any], folder: Path, dtype: str, *, projected: bool) -> Any:
    """Returns a tower's settings, from a `config.json` of both towers or of one."""
    kind = "text" if cls is CLIPTextConfig else "vision"
    expected = {"clip": WHERE, f"clip_{kind}_model": WHERE}
    config = hf.read_config(folder, expected)
    tower = config
    if config["model_type"] == "clip":
        # Files from before 2023 keep the settings under another key.
        tower = config.get(f"{kind}_config") or config.get(f"{kind}_config_dict") or {}
    width = config.get("projection_dim", 512) if projected else 0
    return hf.settings(cls, tower, folder, dtype=dtype, projection_dim=width)


class Block(nn.Module):
    """One block, x + attention(norm(x)), then x + mlp(norm(x)); the body of a scan."""

    cfg: TowerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], bias: Float[Array, "#b #n #m m"]
    ) -> tuple[Float[Array, "b m d"], None]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        head_dim = cfg.hidden_size // cfg.num_attention_heads
        h = AffineLayerNorm(cfg.layer_norm_eps, name="attn_norm")(x).astype(dtype)
        x = x + SelfAttention(
            cfg.num_attention_heads,
            head_dim,
            head_dim**-0.5,
            True,
            dtype,
            name="self_attn",
        )(h, bias)
        h = AffineLayerNorm(cfg.layer_norm_eps, name="mlp_norm")(x).astype(dtype)
        h = dense(cfg.intermediate_size, dtype, use_bias=True, name="mlp_in")(h)
        h = ACTIVATIONS[cfg.hidden_act](h)
        h = dense(cfg.hidden_size, dtype, use_bias=True, name="mlp_out")(h)
        return x + h.astype(jnp.float32), None


class TextTower(nn.Module):
    """The embedding, the blocks and the norm, with the end token's state projected."""

    cfg: CLIPTextConfig

    @nn.compact
    def __call__(
        self, ids: Int[Array, "b m"], valid: Bool[Array, "b m"]
    ) -> tuple[Float[Array, "b m e"], Float[Array, "b p"]]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        width, length = cfg.hidden_size, cfg.max_position_embeddings
        tokens = nn.Embed(cfg.vocab_size, width, param_dtype=dtype, name="tokens")
        places = nn.Embed(length, width, param_dtype=dtype, name="places")
        x = tokens(ids).astype(jnp.float32) + places(jnp.arange(ids.shape[1])[None])
        bias = mask_bias(valid) + causal_bias(ids.shape[1])
        x, _ = scan_blocks(Block, cfg.num_hidden_layers)(cfg, name="blocks")(x, bias)
        x = AffineLayerNorm(cfg.layer_norm_eps, name="final_norm")(x)
        ends = ids if cfg.eos_token_id == _LEGACY_EOS else ids == cfg.eos_token_id
        end = jnp.argmax(jnp.where(valid, ends, -1), axis=1)  # the first end token
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return x, project(pooled, cfg)


def project(x: Float[Array, "b d"], cfg: TowerConfig) -> Float[Array, "b p"]:
    """Projects into the space of both towers; returns p = 0 features without one."""
    if not cfg.projection_dim:
        return x[:, :0]
    layer = dense(
        cfg.projection_dim, jnp.dtype(cfg.dtype), use_bias=False, name="projection"
    )
    return layer(x).astype(jnp.float32)


def block_names() -> dict[str, str]:
    """Returns our modules of a block by the files' names; the same in both towers."""
    layer = "encoder.layers.{}."
    names = {
        "blocks.attn_norm": f"{layer}layer_norm1",
        "blocks.mlp_norm": f"{layer}layer_norm2",
        "blocks.mlp_in": f"{layer}mlp.fc1",
        "blocks.mlp_out": f"{layer}mlp.fc2",
        "blocks.self_attn.o": f"{layer}self_attn.out_proj",
    }
    return names | {
        f"blocks.self_attn.{x}": f"{layer}self_attn.{x}_proj" for x in "qkv"
    }

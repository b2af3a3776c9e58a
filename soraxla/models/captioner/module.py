"""The captioner as a Flax module; `soraxla.models.captioner.model` has its functions.

It follows GIT (arXiv 2205.14100): a tower over a few frames with temporal embeddings,
and a causal decoder of text. GIT's text sees the frames as tokens before it; here it
sees them by cross-attention, which packed rows of many clips have an engine for.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Float, Int

from soraxla.core.types import Array
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.dit.layers import (
    MLP,
    AffineLayerNorm,
    Attention,
    PreNormBlock,
    linear,
)
from soraxla.models.dit.module import position_features
from soraxla.ops.rope import rotary_tables
from soraxla.parallel.mesh import constrain

# Each (…, b, tokens, heads, k), of all layers with a leading axis.
KeysValues = tuple[Float[Array, "..."], Float[Array, "..."]]


class TextContext(NamedTuple):
    """The inputs of every text block beside the tokens.

    In a batch of training, a text is a segment of the clip's number. While several
    texts of a clip are written, each is a segment of the row's one clip.
    """

    text_ids: Int[Array, "b m"]  # the text of each token
    index: Int[Array, "b m"]  # its place in the text
    segment_ids: Int[Array, "b m"]  # its clip
    frame_ids: Int[Array, "b l"]  # the clip of each frame token
    key_ids: Int[Array, "b c"]  # those of the keys, which may be earlier tokens
    key_index: Int[Array, "b c"]
    slot: Int[Array, ""] | int = 0  # of these tokens among the keys of a cache


class TextBlock(nn.Module):
    """Causal self-attention, cross-attention to the frames, MLP.

    The first and the last branch start at 0. The signature is that of a scan's body.
    """

    cfg: CaptionerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b m d"],
        ctx: TextContext,
        frames: Float[Array, "b l d"] | None,
        cached: tuple[KeysValues, KeysValues] | None = None,
    ) -> tuple[Float[Array, "b m d"], KeysValues]:
        """Returns the tokens, and the keys and values of the self-attention.

        Args:
            frames: the tower's tokens, or None with `cached`.
            cached: keys and values of the frames, and of all texts' tokens by place.
        """
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        h = AffineLayerNorm(name="self_norm")(x).astype(dtype)
        attn = Attention(cfg, zero=True, axes=("text", "text"), name="self_attn")
        places = jnp.stack([ctx.index, 0 * ctx.index, 0 * ctx.index], axis=-1)
        rotary = rotary_tables(places.astype(jnp.float32), cfg.head_dim)
        own = attn.keys_values(h, rotary)
        if cached is not None:
            own = (_put(cached[1][0], own[0], ctx), _put(cached[1][1], own[1], ctx))
        order = ctx.index, ctx.key_index
        h = attn(h, *own, ctx.text_ids, ctx.key_ids, rotary=rotary, order=order)
        x = x + h
        h = AffineLayerNorm(name="cross_norm")(x).astype(dtype)
        # Keys that are sharded need queries that are, too: each device gets all.
        attn = Attention(cfg, axes=("text", "text"), name="cross_attn")
        seen = attn.keys_values(jnp.asarray(frames)) if cached is None else cached[0]
        x = x + attn(h, *seen, ctx.segment_ids, ctx.frame_ids)
        h = AffineLayerNorm(name="mlp_norm")(x).astype(dtype)
        mlp = MLP(cfg.mlp_width, cfg.width, dtype, zero=True, axis="text", name="mlp")
        return constrain(x + mlp(h), "batch", "text", None), own


def _put(cache: Array, new: Array, ctx: TextContext) -> Array:
    """Returns the cache (b c n k) with new tokens (b m n k) from the slot on."""
    return jax.lax.dynamic_update_slice_in_dim(jnp.asarray(cache), new, ctx.slot, 1)


class Stem(nn.Module):
    """Convolutions over the window of each token, which halve its side from the second.

    The first one sees blocks of 4 pixels, the others of 2 places before.
    """

    cfg: CaptionerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l p"]) -> Float[Array, "b l d"]:
        cfg = self.cfg
        rows, length, side = *x.shape[:2], cfg.view.window
        x = jnp.asarray(x, cfg.dtype).reshape(-1, 3, side, side)
        x = x.transpose(0, 2, 3, 1)
        for i, channels in enumerate(cfg.stem):
            x = _folded(x, 2 if i else 4)
            conv = nn.Conv(channels, (3, 3), dtype=cfg.dtype, name=f"conv_{i}")
            x = nn.silu(conv(x))
        return x.reshape(rows, length, -1)


def _folded(x: Float[Array, "n h w c"], side: int) -> Float[Array, "n h2 w2 c2"]:
    """Returns blocks of places as channels."""
    return rearrange(x, "n (h a) (w b) c -> n h w (a b c)", a=side, b=side)


class Captioner(nn.Module):
    """The network as a module: `see` frames, then `write` text."""

    cfg: CaptionerConfig

    def setup(self) -> None:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        if cfg.stem:
            self.stem = Stem(cfg)
        self.patch_embed = linear(cfg.width, dtype)
        self.position_embed = linear(cfg.width, dtype)
        if cfg.tower_layers:
            self.tower = _scanned(PreNormBlock, cfg.tower_layers, 2)(
                cfg, cfg.mlp_width, "tokens"
            )
        self.tower_norm = AffineLayerNorm()
        small = nn.initializers.normal(0.02)
        shape = len(cfg.vocabulary), cfg.width
        self.word_embed = self.param("word_embed", small, shape)
        self.blocks = _scanned(TextBlock, cfg.layers, 2, cached=True)(cfg)
        self.head_norm = AffineLayerNorm()
        self.head = linear(len(cfg.vocabulary), dtype, zero=True)

    def see(
        self,
        x: Float[Array, "b l p"],
        positions: Float[Array, "b l 3"],
        segment_ids: Int[Array, "b l"],
    ) -> Float[Array, "b l d"]:
        """Returns the tower's tokens of patches, or of a pretrained tower's states."""
        cfg = self.cfg
        x = self.stem(x) if cfg.stem else x
        x = self.patch_embed(x) + self.position_embed(position_features(positions))
        x = constrain(x, "batch", "tokens", None)
        if cfg.tower_layers:
            rotary = rotary_tables(jnp.asarray(positions), cfg.head_dim)
            x, _ = self.tower(x, segment_ids, rotary)
        return self.tower_norm(x).astype(cfg.dtype)

    def write(
        self,
        ids: Int[Array, "b m"],
        ctx: TextContext,
        frames: Float[Array, "b l d"] | None,
        cached: tuple[Any, Any] | None = None,
    ) -> tuple[Float[Array, "b m v"], Any]:
        """Returns logits of the next tokens, fp32, and keys and values of all layers.

        Args:
            frames, cached: as `TextBlock`'s, with a leading axis of layers.
        """
        # A product: its gradient is no scatter, see `gather_rows`.
        words = self.word_embed.astype(self.cfg.dtype)
        x = jax.nn.one_hot(ids, len(words), dtype=words.dtype) @ words
        x = constrain(x, "batch", "text", None)
        x, made = self.blocks(x, ctx, frames, cached)
        logits = self.head(self.head_norm(x))
        return logits.astype(jnp.float32), made

    def __call__(self, x, positions, segment_ids, ids, ctx: TextContext) -> Any:
        return self.write(ids, ctx, self.see(x, positions, segment_ids))[0]


def _scanned(block: Any, layers: int, shared: int, cached: bool = False) -> Any:
    """Returns a scan over blocks; the first `shared` inputs are those of all layers."""
    axes = (nn.broadcast,) * shared + ((0,) if cached else ())
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=axes,  # pyright: ignore
        length=layers,
    )

"""The transformer as a Flax module; `soraxla.models.dit.model` has its functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from soraxla.core.types import Array, PackedBatch
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.layers import (
    MLP,
    Block,
    Context,
    CopyAttention,
    Linear,
    PreNormBlock,
    gather_rows,
    layer_norm,
    linear,
)
from soraxla.models.dit.local import Forecast, LocalLayers, neighbours
from soraxla.models.dit.remat import POLICIES
from soraxla.models.dit.wan_padding import add_pads
from soraxla.ops.rope import rotary_tables
from soraxla.parallel.mesh import constrain

_FREQUENCIES = 128


class Text(NamedTuple):
    """The network's results from the text only, the same at every time."""

    keys: Float[Array, "n b m h k"]  # n: one for each block's cross-attention
    values: Float[Array, "n b m h k"]
    segment_ids: Int[Array, "b m"]
    bias: Float[Array, "b m"] | None


# The logical axes of `Text`.
_TEXT: dict[str, Any] = {
    "keys": (None, "batch", "text", "heads", None),
    "values": (None, "batch", "text", "heads", None),
    "segment_ids": ("batch", "text"),
    "bias": ("batch", "text"),
}
TEXT_AXES = Text(**_TEXT)


class DiT(nn.Module):
    """The network as a module; call it through `init` and `apply` of `model.py`.

    It consists of `embed`, `blocks` and `unembed` in turn.
    """

    cfg: DiTConfig

    def setup(self) -> None:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        small = nn.initializers.normal(0.02)
        self.patch_embed = linear(cfg.width, dtype)
        if cfg.position_embed:
            self.position_embed = linear(cfg.width, dtype)
        if cfg.controls.width:
            self.control_embed = linear(cfg.width, dtype, zero=True)
        self.known_embed = self.param(
            "known_embed", nn.initializers.zeros, (cfg.width,)
        )
        self.time_in = Linear(cfg.width, jnp.float32, small)
        self.time_out = Linear(cfg.width, jnp.float32, small)
        self.time_proj = linear(6 * cfg.width, jnp.float32, zero=True)
        self.text_embed = MLP(cfg.width, cfg.width, dtype, axis="text")
        self.text_refiner = [
            PreNormBlock(cfg, 2 * cfg.width, "text")
            for _ in range(cfg.text_refiner_layers)
        ]
        block = Block
        if cfg.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=POLICIES[cfg.remat])
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),  # pyright: ignore
            length=cfg.layers,
        )(cfg)
        self.head_table = self.param(
            "head_table", nn.initializers.zeros, (2, cfg.width)
        )
        # bf16 operands, fp32 result, since many sampler steps add up the predictions.
        zeros, fp32 = nn.initializers.zeros, jnp.float32
        self.head = Linear(cfg.patch_dim, dtype, zeros, out_dtype=fp32)
        if cfg.input_gate:
            self.copy_attn = CopyAttention(cfg)
            self.gate = Linear(2 * cfg.patch_dim, dtype, zeros, out_dtype=fp32)
        if cfg.local_layers:
            self.local = LocalLayers(cfg, cfg.local_layers)
        if cfg.forecast_layers:
            self.forecast = Forecast(cfg)
            self.forecast_embed = linear(cfg.width, dtype, zero=True)
            self.forecast_gate = Linear(cfg.patch_dim, dtype, zeros, out_dtype=fp32)

    def __call__(self, x_BLP, t, batch, condition_t, text: Text | None = None):
        x, ctx, e_BRD = self.embed(x_BLP, t, batch, condition_t, text)
        x, _ = self.blocks(x, ctx, None if text is None else text[:2])
        return self.unembed(x, ctx, e_BRD, x_BLP)

    def run_blocks(self, x, ctx: Context) -> jax.Array:
        x, _ = self.blocks(x, ctx, None)
        return jnp.asarray(x)

    def embed(
        self,
        x,
        t,
        batch,
        condition_t,
        text: Text | None = None,
        second: tuple[Array, Array] | None = None,
    ) -> tuple[jax.Array, Context, jax.Array]:
        """Returns tokens (B,L,D), the blocks' other inputs, and the time embedding.

        `second` has a further time of each segment (B,S), and the tokens that have it
        (B,L).
        """
        cfg, x_BLP = self.cfg, x
        x = self.patch_embed(x)
        if cfg.position_embed:
            x = x + self.position_embed(position_features(batch.positions))
        if cfg.controls.width:
            x = x + self.control_embed(jnp.asarray(batch.controls, x.dtype))
        condition = batch.condition_mask[:, :, None] * self.known_embed[None, None, :]
        x = constrain(x + condition.astype(x.dtype), "batch", "tokens", None)
        times = [t, condition_t] if second is None else [t, condition_t, second[0]]
        rows = jnp.stack(times, axis=-1).reshape(t.shape[0], -1)
        hidden = constrain(self.time_in(time_features(rows)), "batch", None, None)
        e_BRD = constrain(self.time_out(nn.silu(hidden)), "batch", None, None)
        modulation = constrain(self.time_proj(nn.silu(e_BRD)), "batch", None, None)
        cos, sin = rotary_tables(jnp.asarray(batch.positions), cfg.head_dim)
        tokens, text_ids, text_bias = (
            self.embed_text(batch) if text is None else (None, *text[2:])
        )
        segment = jnp.maximum(batch.segment_ids - 1, 0)
        row = len(times) * segment + batch.condition_mask.astype(segment.dtype)
        if second is not None:
            row = jnp.where(second[1], len(times) * segment + 2, row)
        near = forecast = None
        if cfg.local_layers or cfg.forecast_layers:
            near = _neighbours(batch)
        if cfg.forecast_layers:
            level = gather_rows(1.0 - rows[:, :, None], row)[:, :, 0]
            forecast = self.forecast(jnp.asarray(x_BLP), level, jnp.asarray(near))
            x = x + self.forecast_embed(forecast)
        ctx = Context(
            segment_ids=jnp.asarray(batch.segment_ids),
            cos=cos,
            sin=sin,
            modulation=modulation.reshape(*rows.shape, 6, cfg.width),
            row=row,
            text=tokens,
            text_segment_ids=text_ids,
            text_bias=text_bias,
            near=near,
            forecast=forecast,
        )
        return x, ctx, e_BRD

    def unembed(self, x, ctx: Context, e_BRD: jax.Array, x_BLP: Array) -> jax.Array:
        """Returns the prediction (B,L,P), fp32, 0 at padding; `x_BLP` is the input."""
        shift, scale = (
            gather_rows(e_BRD + self.head_table[i][None, None, :], ctx.row)
            for i in range(2)
        )
        hidden = layer_norm(x) * (1.0 + scale) + shift
        x = self.head(hidden)
        x_BLP = jnp.asarray(x_BLP, jnp.float32)
        candidates: list[Array] = [x_BLP]
        if self.cfg.input_gate:
            keep, copy = jnp.split(self.gate(hidden), 2, axis=-1)
            copied = self.copy_attn(hidden, x_BLP, ctx)
            x = x + keep * (x_BLP - x) + copy * (copied - x)
            candidates.append(copied)
        if ctx.forecast is not None:
            x = x + self.forecast_gate(hidden) * (ctx.forecast - x)
        if self.cfg.local_layers:
            candidates, near = [*candidates, x], jnp.asarray(ctx.near)
            x = x + self.local(hidden, jnp.stack(candidates, axis=2), near)
        return jnp.where((ctx.segment_ids > 0)[:, :, None], x, 0.0)

    def forecast_frames(self, x: Array, level: Array, batch: PackedBatch) -> Array:
        return self.forecast(x, level, _neighbours(batch))

    def embed_text(self, batch: PackedBatch):
        """Returns text tokens at the model's width, segment ids and logit biases."""
        text, ids = jnp.asarray(batch.text), jnp.asarray(batch.text_segment_ids)
        bias = None
        if self.cfg.text_pad_to is not None:
            text, ids, bias = add_pads(
                text, ids, batch.visit.shape[1], self.cfg.text_pad_to
            )
        text = self.text_embed(text)
        for refiner in self.text_refiner:
            text, _ = refiner(text, ids)
        return constrain(text, "batch", "text", None), ids, bias


def time_features(t: Float[Array, "b r"]) -> Float[Array, "b r 256"]:
    """Returns [cos, sin] of 1000·t at 128 frequencies from 1 down to 1/10000, fp32."""
    frequency = 10000.0 ** (-np.arange(_FREQUENCIES, dtype=np.float64) / _FREQUENCIES)
    angle = (1000.0 * t.astype(jnp.float32))[:, :, None]
    angle = angle * jnp.asarray(frequency[None, None, :], jnp.float32)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def position_features(positions: Float[Array, "b l 3"]) -> Float[Array, "b l 96"]:
    """Returns [cos, sin] of each axis at 16 wavelengths from 2 to 362 patches, fp32."""
    frequency = np.pi * 2.0 ** (-0.5 * np.arange(16))[None, None, None, :]
    angle = jnp.asarray(positions, jnp.float32)[:, :, :, None]
    angle = angle * jnp.asarray(frequency, jnp.float32)
    features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return features.reshape(*positions.shape[:2], -1)


def _neighbours(batch: PackedBatch) -> Int[Array, "b l 10"]:
    places, ids = jnp.asarray(batch.positions), jnp.asarray(batch.segment_ids)
    return neighbours(places, ids, batch.visit.shape[1])

"""The packed diffusion transformer: Wan 2.1's layers on rows of several clips."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, PyTree

from soraxla.core.errors import UserError
from soraxla.core.types import Array, PackedBatch
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.layers import (
    MLP,
    Attention,
    Block,
    Context,
    CopyAttention,
    Linear,
    TextRefiner,
    gather_rows,
    layer_norm,
    linear,
)
from soraxla.models.dit.local import Forecast, LocalLayers, neighbours
from soraxla.ops.rope import rotary_tables
from soraxla.parallel.mesh import constrain

Params = dict[str, Any]

_FREQUENCIES = 128

# What each policy keeps of a block beside its input, by the names of its layers.
_policies = jax.checkpoint_policies
_SAVED = {
    "full": _policies.save_only_these_names("self_attn"),
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names("self_attn", "cross_attn"),
    ),
}


def init(key: jax.Array, cfg: DiTConfig) -> Params:
    """Parameters, all fp32; those of the blocks are stacked on a leading layer axis.

    Linear layers start Xavier-uniform, as in DiT (arXiv 2212.09748). Zero at the start:
    the known-mask, control and forecast embeddings, the modulation tables, the time
    projection, the head and the gates of what is mixed into a prediction. So gates are
    shut, and the first prediction is 0 whatever the input. On a small text-to-latent
    task, loss over the zero predictor's in steps 31 to 60: 0.50 with all three branches
    shut, 0.73 with the gates at 1, 0.47 as it is, cross-attention open.
    """
    one = PackedBatch(
        latents=jnp.zeros((1, 1, cfg.patch_dim)),
        segment_ids=jnp.ones((1, 1), jnp.int32),
        token_index=jnp.zeros((1, 1), jnp.int32),
        positions=jnp.zeros((1, 1, 3)),
        condition_mask=jnp.zeros((1, 1), bool),
        controls=jnp.zeros((1, 1, cfg.controls.width)),
        text=jnp.zeros((1, 1, cfg.text_width)),
        text_segment_ids=jnp.ones((1, 1), jnp.int32),
        visit=jnp.zeros((1, 1), jnp.uint32),
        shift=jnp.ones((1, 1)),
    )
    t_BS = jnp.zeros((1, 1))
    variables = DiT(cfg).init(key, one.latents, t_BS, one, t_BS)
    return dict(variables["params"])


def apply(
    params: Params,
    cfg: DiTConfig,
    x: Float[Array, "b l p"],
    t: Float[Array, "b s"],
    batch: PackedBatch,
    condition_t: Float[Array, "b s"] | None = None,
    adapters: PyTree = None,
    text: "Text | None" = None,
) -> Float[Array, "b l p"]:
    """The network's prediction for corrupted tokens, fp32; exactly 0 at padding.

    Args:
        x: corrupted latents, known tokens included.
        t: time of each segment's generated tokens, 0 clean … 1 noise.
        batch: everything but `batch.latents` is read.
        condition_t: time of each segment's known tokens; clean (0) if None.
        adapters: {layer: {a, b}}, whose products x·a·b are added to the layers'.
        text: of `encode_text`, for calls that share it; `batch.text` is then not read.

    Raises:
        UserError: tokens or text are not as wide as the configuration says.
    """
    _check_width("token", x.shape[-1], cfg.patch_dim, "latent_channels or patch")
    _check_width("control", batch.controls.shape[-1], cfg.controls.width, "controls")
    _check_width("text", batch.text.shape[-1], cfg.text_width, "text_width")
    if condition_t is None:
        condition_t = jnp.zeros(t.shape, jnp.float32)
    variables = {"params": params, "lora": adapters or {}}
    inputs = (x, t, batch, condition_t, text)
    return DiT(cfg).apply(variables, *inputs)  # pyright: ignore


def forecast(
    params: Params,
    cfg: DiTConfig,
    x: Float[Array, "b l p"],
    t: Float[Array, "b l"],
    batch: PackedBatch,
) -> Float[Array, "b l p"]:
    """What the two frames before each token's tell of it; x are the frames at times t.

    A model without `forecast_layers` has none.
    """
    variables = {"params": params}
    made: Any = DiT(cfg).apply(variables, x, 1.0 - t, batch, method="foretold")
    return made


def as_computed(params: Params, cfg: DiTConfig) -> Params:
    """The parameters with kernels in the type in which they are multiplied.

    Predictions are the same to the bit. For weights that are not trained: in bfloat16
    they take half the memory.
    """

    def cast(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name.startswith("time_") or not name.endswith(".kernel"):
            return leaf  # what is fp32, or small
        return leaf.astype(cfg.dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


class Text(NamedTuple):
    """What the network makes of the text alone, the same at every time."""

    keys: Float[Array, "n b m h k"]  # n: of every block's cross-attention
    values: Float[Array, "n b m h k"]
    segment_ids: Int[Array, "b m"]
    bias: Float[Array, "b m"] | None


def encode_text(params: Params, cfg: DiTConfig, batch: PackedBatch) -> Text:
    """The text of the rows, for any number of `apply`."""
    model, cross = DiT(cfg), Attention(cfg)
    made: Any = model.apply({"params": params}, batch, method="text")
    text, ids, bias = made
    keys, values = jax.lax.map(
        lambda p: cross.apply({"params": p}, text, method="keys_values"),
        params["blocks"]["cross_attn"],
    )
    return Text(keys, values, ids, bias)


def denoiser(
    params: Params,
    cfg: DiTConfig,
    batch: PackedBatch,
    condition_t: Float[Array, ""] | float = 0.0,
) -> Callable[[Array, Array], Array]:
    """`apply` as (x, t) → prediction; the text is encoded here, once.

    `condition_t` is the time of all known tokens.
    """
    text = encode_text(params, cfg, batch)

    def denoise(x: Array, t: Array) -> Array:
        times = jnp.full(t.shape, condition_t, jnp.float32)
        return apply(params, cfg, x, t, batch, times, text=text)

    return denoise


def time_features(t: Float[Array, "b r"]) -> Float[Array, "b r 256"]:
    """[cos, sin] of 1000·t at 128 frequencies from 1 down to 1/10000, fp32."""
    frequency = 10000.0 ** (-np.arange(_FREQUENCIES, dtype=np.float64) / _FREQUENCIES)
    angle = (1000.0 * t.astype(jnp.float32))[:, :, None]
    angle = angle * jnp.asarray(frequency[None, None, :], jnp.float32)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def position_features(positions: Float[Array, "b l 3"]) -> Float[Array, "b l 96"]:
    """[cos, sin] of each axis at 16 wavelengths from 2 patches up to 362, fp32."""
    frequency = np.pi * 2.0 ** (-0.5 * np.arange(16))[None, None, None, :]
    angle = jnp.asarray(positions, jnp.float32)[:, :, :, None]
    angle = angle * jnp.asarray(frequency, jnp.float32)
    features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return features.reshape(*positions.shape[:2], -1)


class DiT(nn.Module):
    """The network; `init` and `apply` are its public face.

    `embed`, `blocks` and `unembed` in turn are the whole of it.
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
        self.text_refiner = [TextRefiner(cfg) for _ in range(cfg.text_refiner_layers)]
        block = Block
        if cfg.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=_SAVED[cfg.remat])
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),  # pyright: ignore
            length=cfg.layers,
        )(cfg)
        self.head_table = self.param(
            "head_table", nn.initializers.zeros, (2, cfg.width)
        )
        # bf16 operands, fp32 result: predictions are summed over many sampler steps.
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

    def embed(
        self, x, t, batch, condition_t, text: Text | None = None
    ) -> tuple[jax.Array, Context, jax.Array]:
        """Tokens (B,L,D), what blocks read beside them, and the time embedding."""
        cfg, x_BLP = self.cfg, x
        x = self.patch_embed(x)
        if cfg.position_embed:
            x = x + self.position_embed(position_features(batch.positions))
        if cfg.controls.width:
            x = x + self.control_embed(jnp.asarray(batch.controls, x.dtype))
        condition = batch.condition_mask[:, :, None] * self.known_embed[None, None, :]
        x = constrain(x + condition.astype(x.dtype), "batch", "tokens", None)
        rows = jnp.stack([t, condition_t], axis=-1).reshape(t.shape[0], -1)
        hidden = constrain(self.time_in(time_features(rows)), "batch", None, None)
        e_BRD = constrain(self.time_out(nn.silu(hidden)), "batch", None, None)
        modulation = constrain(self.time_proj(nn.silu(e_BRD)), "batch", None, None)
        cos, sin = rotary_tables(jnp.asarray(batch.positions), cfg.head_dim)
        tokens, text_ids, text_bias = (
            self.text(batch) if text is None else (None, *text[2:])
        )
        segment = jnp.maximum(batch.segment_ids - 1, 0)
        row = 2 * segment + batch.condition_mask.astype(segment.dtype)
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
        """The prediction (B,L,P), fp32, 0 at padding; `x_BLP` is what came in."""
        shift, scale = (
            gather_rows(e_BRD + self.head_table[i][None, None, :], ctx.row)
            for i in range(2)
        )
        hidden = layer_norm(x) * (1.0 + scale) + shift
        x = self.head(hidden)
        x_BLP = jnp.asarray(x_BLP, jnp.float32)
        at_hand: list[Array] = [x_BLP]
        if self.cfg.input_gate:
            own, other = jnp.split(self.gate(hidden), 2, axis=-1)
            copied = self.copy_attn(hidden, x_BLP, ctx)
            x = x + own * (x_BLP - x) + other * (copied - x)
            at_hand.append(copied)
        if ctx.forecast is not None:
            x = x + self.forecast_gate(hidden) * (ctx.forecast - x)
        if self.cfg.local_layers:
            at_hand, near = [*at_hand, x], jnp.asarray(ctx.near)
            x = x + self.local(hidden, jnp.stack(at_hand, axis=2), near)
        return jnp.where((ctx.segment_ids > 0)[:, :, None], x, 0.0)

    def foretold(self, x: Array, level: Array, batch: PackedBatch) -> Array:
        return self.forecast(x, level, _neighbours(batch))

    def text(self, batch: PackedBatch):
        """Text tokens at the model's width, their segment ids and logit biases."""
        text, ids = jnp.asarray(batch.text), jnp.asarray(batch.text_segment_ids)
        bias = None
        if self.cfg.text_pad_to is not None:
            text, ids, bias = _add_pads(
                text, ids, batch.visit.shape[1], self.cfg.text_pad_to
            )
        text = self.text_embed(text)
        for refiner in self.text_refiner:
            text = refiner(text, ids)
        return constrain(text, "batch", "text", None), ids, bias


def _neighbours(batch: PackedBatch) -> Int[Array, "b l 10"]:
    places, ids = jnp.asarray(batch.positions), jnp.asarray(batch.segment_ids)
    return neighbours(places, ids, batch.visit.shape[1])


def _add_pads(
    text: Float[Array, "b m e"], ids: Int[Array, "b m"], segments: int, length: int
):
    """Appends one zero token a segment that counts as its `length − n` pads.

    n equal keys are one key whose logit gains log n. A prompt that fills `length` by
    itself has no pad.
    """
    pad_ids = jnp.broadcast_to(
        jnp.arange(1, segments + 1, dtype=ids.dtype)[None, :], (ids.shape[0], segments)
    )
    n_BS = jnp.sum(ids[:, :, None] == pad_ids[:, None, :], axis=1)
    pads_BS = length - n_BS
    bias = jnp.concatenate(
        [
            jnp.zeros(ids.shape, jnp.float32),
            jnp.log(jnp.maximum(pads_BS, 1).astype(jnp.float32)),
        ],
        axis=1,
    )
    zeros = jnp.zeros((text.shape[0], segments, text.shape[2]), text.dtype)
    ids = jnp.concatenate([ids, jnp.where(pads_BS > 0, pad_ids, 0)], axis=1)
    return jnp.concatenate([text, zeros], axis=1), ids, bias


def _check_width(what: str, found: int, expected: int, setting: str) -> None:
    if found != expected:
        raise UserError(
            f"DiT {what} width is {found}, expected {expected}: "
            f"use a dataset of this model or change {setting}"
        )

"""The packed diffusion transformer: Wan 2.1's layers on rows of several clips."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PyTree

from soraxla.core.errors import UserError
from soraxla.core.trees import STACKED, named_leaves
from soraxla.core.types import Array, PackedBatch
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.layers import MLP, Attention, Block, Context
from soraxla.models.dit.module import DiT, Text
from soraxla.parallel.mesh import constrain

Params = dict[str, Any]


def init(key: jax.Array, cfg: DiTConfig) -> Params:
    """Returns new parameters, all fp32; blocks are stacked on a leading layer axis.

    Linear layers start Xavier-uniform, as in DiT (arXiv 2212.09748). These start at
    zero: the condition-mask, control and forecast embeddings, the modulation tables,
    the time projection, the head and the gates of additions to a prediction. So the
    gates are closed, and the first prediction is 0 for any input. On a small
    text-to-latent task, the loss relative to the zero predictor's in steps 31 to 60 was
    0.50 with all three branches closed, 0.73 with the gates at 1, and 0.47 as it is,
    with cross-attention open.
    """
    one = PackedBatch(
        latents=jnp.zeros((1, 1, cfg.patch_dim)),
        segment_ids=jnp.ones((1, 1), jnp.int32),
        token_index=jnp.zeros((1, 1), jnp.int32),
        positions=jnp.zeros((1, 1, 3)),
        condition_mask=jnp.zeros((1, 1), bool),
        controls=jnp.zeros((1, 1, cfg.controls.width)),
        features=jnp.zeros((1, 1, 0)),
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
    text: Text | None = None,
) -> Float[Array, "b l p"]:
    """Returns the prediction for corrupted tokens, fp32; exactly 0 at padding.

    Args:
        x: corrupted latents, with condition tokens.
        t: time of each segment's generated tokens, 0 clean … 1 noise.
        batch: the packed rows; `batch.latents` is not read.
        condition_t: time of each segment's condition tokens; clean (0) if None.
        adapters: {layer: {a, b}}; the products x·a·b are added to the layers' outputs.
        text: the result of `encode_text`, for calls that share it; `batch.text` is not
            read.

    Raises:
        UserError: tokens, controls or text do not have the configured width.
    """
    variables = {"params": params, "lora": adapters or {}}
    inputs = _inputs(cfg, x, t, batch, condition_t)
    return DiT(cfg).apply(variables, *inputs, text)  # pyright: ignore


def embed(
    params: Params,
    cfg: DiTConfig,
    x: Float[Array, "b l p"],
    t: Float[Array, "b s"],
    batch: PackedBatch,
    condition_t: Float[Array, "b s"],
    *,
    adapters: PyTree = None,
    second: tuple[Float[Array, "b s"], Bool[Array, "b l"]] | None = None,
) -> tuple[Float[Array, "b l d"], Context, Float[Array, "b r d"]]:
    """Returns the inputs of the first block and the time embedding, see `apply`.

    `unembed` of `run_blocks` over all blocks of these is the result of `apply`. A
    training may do more between them.

    Args:
        second: a further time of each segment, and the tokens that have it.
    """
    inputs = (x, t, batch, condition_t, None, second)
    variables = {"params": params, "lora": adapters or {}}
    return DiT(cfg).apply(variables, *inputs, method="embed")  # pyright: ignore


def run_blocks(
    params: Params,
    cfg: DiTConfig,
    x: Float[Array, "b l d"],
    ctx: Context,
    layers: range,
    adapters: PyTree = None,
) -> Float[Array, "b l d"]:
    """Returns the tokens after consecutive blocks, which `layers` counts from 0."""

    def cut(tree: PyTree) -> PyTree:
        part = slice(layers.start, layers.stop)
        return tree | {
            name: jax.tree.map(lambda leaf: leaf[part], tree[name])
            for name in (STACKED,)
            if name in tree
        }

    variables = {"params": cut(params), "lora": cut(adapters or {})}
    part = dataclasses.replace(cfg, layers=len(layers))
    return DiT(part).apply(variables, x, ctx, method="run_blocks")  # pyright: ignore


def unembed(
    params: Params,
    cfg: DiTConfig,
    x: Float[Array, "b l d"],
    ctx: Context,
    e: Float[Array, "b r d"],
    inputs: Float[Array, "b l p"],
    adapters: PyTree = None,
) -> Float[Array, "b l p"]:
    """Returns the prediction from the last block's tokens; `inputs` are `embed`'s x."""
    variables = {"params": params, "lora": adapters or {}}
    return DiT(cfg).apply(variables, x, ctx, e, inputs, method="unembed")  # pyright: ignore


def capture(
    params: Params,
    cfg: DiTConfig,
    x: Float[Array, "b l p"],
    t: Float[Array, "b s"],
    batch: PackedBatch,
    condition_t: Float[Array, "b s"] | None = None,
) -> tuple[Float[Array, "b l p"], dict[str, Array]]:
    """Returns the prediction of `apply`, and what the blocks computed, by name.

    Every array has a leading axis of layers. `blocks` has the tokens after each block;
    `blocks.self_attn`, `blocks.cross_attn` and `blocks.mlp` have the branches, before
    their gates; `blocks.self_attn.queries` and `.keys`, and those of `cross_attn`, have
    rotated heads (n b l h k). The weights of an attention are the softmax of
    queries·keys/√k over the keys of a segment; no engine computes them whole. In a jit,
    arrays that are not returned cost nothing.

    Raises:
        UserError: as `apply`.
    """

    def branches(module: Any, method: str) -> bool:
        return method == "__call__" and isinstance(module, Block | Attention | MLP)

    found, state = DiT(cfg).apply(
        {"params": params},
        *_inputs(cfg, x, t, batch, condition_t),
        capture_intermediates=branches,
        mutable=["intermediates"],
    )  # pyright: ignore
    blocks = named_leaves({"blocks": state["intermediates"]["blocks"]})
    # Flax keeps a tuple of each call's result, and a block returns a pair.
    pattern = re.compile(r"\.__call__|\.\d+")
    return found, {pattern.sub("", name): leaf for name, leaf in blocks.items()}


def forecast(
    params: Params,
    cfg: DiTConfig,
    x: Float[Array, "b l p"],
    t: Float[Array, "b l"],
    batch: PackedBatch,
) -> Float[Array, "b l p"]:
    """Returns each token's forecast from the two frames before it, at times t.

    Only models with `forecast_layers` have one.
    """
    variables = {"params": params}
    frames: Any = DiT(cfg).apply(variables, x, 1.0 - t, batch, method="forecast_frames")
    return frames


def cast_kernels(params: Params, cfg: DiTConfig) -> Params:
    """Casts kernels to the dtype of their products; predictions keep every bit.

    For weights that are not trained: in bfloat16 they take half the memory.
    """

    def cast(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name.startswith("time_") or not name.endswith(".kernel"):
            return leaf  # used in fp32, or small
        return leaf.astype(cfg.dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def encode_text(params: Params, cfg: DiTConfig, batch: PackedBatch) -> Text:
    """Encodes the text of the rows, for any number of calls of `apply`."""
    model, cross = DiT(cfg), Attention(cfg)
    embedded: Any = model.apply({"params": params}, batch, method="embed_text")
    text, ids, bias = embedded
    keys, values = jax.lax.map(
        lambda p: cross.apply({"params": p}, text, method="keys_values"),
        params["blocks"]["cross_attn"],
    )
    keys, values = (
        constrain(x, None, "batch", "text", "heads", None) for x in (keys, values)
    )
    return Text(keys, values, ids, bias)


def denoiser(
    params: Params,
    cfg: DiTConfig,
    batch: PackedBatch,
    condition_t: Float[Array, ""] | float = 0.0,
    text: Text | None = None,
) -> Callable[[Array, Array], Array]:
    """Returns `apply` as (x, t) → prediction; encodes the text once.

    Args:
        condition_t: time of all condition tokens.
        text: the result of `encode_text`, for several calls of this function.
    """
    if text is None:
        text = encode_text(params, cfg, batch)

    def denoise(x: Array, t: Array) -> Array:
        times = jnp.full(t.shape, condition_t, jnp.float32)
        return apply(params, cfg, x, t, batch, times, text=text)

    return denoise


def _inputs(
    cfg: DiTConfig, x: Array, t: Array, batch: PackedBatch, condition_t: Array | None
) -> tuple[Array, Array, PackedBatch, Array]:
    """Returns the module's first inputs, or raises UserError if a width is wrong."""
    _check_width("token", x.shape[-1], cfg.patch_dim, "latent_channels or patch")
    _check_width("control", batch.controls.shape[-1], cfg.controls.width, "controls")
    _check_width("text", batch.text.shape[-1], cfg.text_width, "text_width")
    if condition_t is None:
        condition_t = jnp.zeros(t.shape, jnp.float32)
    return x, t, batch, condition_t


def _check_width(what: str, found: int, expected: int, setting: str) -> None:
    if found != expected:
        raise UserError(
            f"DiT {what} width is {found}, expected {expected}: "
            f"use a dataset of this model or change {setting}"
        )

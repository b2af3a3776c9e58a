"""The captioner's functions: text of packed frames, pure in parameters and batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.models.captioner import pretrained
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.captioner.module import Captioner, KeysValues, TextContext
from soraxla.models.dit.layers import Attention
from soraxla.models.dit.sharding import BLOCK_RULES
from soraxla.parallel.mesh import Rules

Params = dict[str, Any]

TOWER = "pretrained"  # the parameters of a CLIP or DINOv2 tower


def rules(cfg: CaptionerConfig) -> Rules:
    """Returns the sharding of the parameters; a pretrained tower's are replicated."""
    other: Rules = ((rf"{TOWER}\..*", ()),) if cfg.pretrained else ()
    if cfg.stem:
        other = (*other, (r"stem\..*\.kernel", ()))
    return (
        *other,
        *BLOCK_RULES,
        (r"(patch|position)_embed\.kernel", (None, "embed")),
        (r"word_embed", (None, "embed")),
        (r"head\.kernel", ("embed", None)),
        (r".*(bias|scale)", ()),
    )


def init(key: jax.Array, cfg: CaptionerConfig) -> Params:
    """Returns fresh parameters; those of a pretrained tower are random.

    All branches but the cross-attentions and the prediction start at 0.
    """
    one = jnp.ones((1, 1), jnp.int32)
    width = pretrained.width(cfg)
    places = jnp.zeros((1, 1, 3))
    ctx = TextContext(one, one, one, one, one, one)
    inputs = jnp.zeros((1, 1, width)), places, one, one, ctx
    params = dict(Captioner(cfg).init(key, *inputs)["params"])
    if cfg.pretrained is not None:
        params[TOWER] = pretrained.init(key, cfg.pretrained)
    return params


def apply(
    params: Params, cfg: CaptionerConfig, batch: PackedBatch
) -> Float[Array, "b m v"]:
    """Returns the logits of the token after each token of the packed captions.

    Args:
        batch: `latents` has patches of pixels (`data_pipelines.view.segment`), and the
            first number of `text` is a token.
    """
    ids = jnp.asarray(batch.text_segment_ids)
    index = places(ids)
    frame_ids = jnp.asarray(batch.segment_ids)
    ctx = TextContext(ids, index, ids, frame_ids, ids, index)
    text = jnp.asarray(batch.text)[:, :, 0].astype(jnp.int32)
    found: Any = _call(params, cfg, "write", text, ctx, see(params, cfg, batch))
    return found[0]


def see(
    params: Params, cfg: CaptionerConfig, batch: PackedBatch
) -> Float[Array, "b l d"]:
    """Returns the tower's tokens of packed frames."""
    x = jnp.asarray(batch.latents)
    if cfg.pretrained is not None:
        x = pretrained.states(params[TOWER], cfg.pretrained, x)
    positions = jnp.asarray(batch.positions), jnp.asarray(batch.segment_ids)
    return _call(params, cfg, "see", x, *positions)


def frame_memory(
    params: Params, cfg: CaptionerConfig, frames: Float[Array, "b l d"]
) -> KeysValues:
    """Returns the keys and values of frames for each text block, (n b l h k)."""
    cross = Attention(cfg)
    return jax.lax.map(
        lambda p: cross.apply({"params": p}, frames, method="keys_values"),
        params["blocks"]["cross_attn"],
    )


def write(
    params: Params,
    cfg: CaptionerConfig,
    ids: Int[Array, "b m"],
    ctx: TextContext,
    memory: KeysValues,
    cache: KeysValues,
) -> tuple[Float[Array, "b m v"], KeysValues]:
    """Returns logits of the next tokens, and the cache with these tokens.

    Args:
        memory: of `frame_memory`.
        cache: keys and values of the texts up to now, (n b c h k).
    """
    found: Any = _call(params, cfg, "write", ids, ctx, None, (memory, cache))
    return found


def places(segment_ids: Int[Array, "b m"]) -> Int[Array, "b m"]:
    """Returns each token's index in its segment; segments are end to end."""
    index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None]
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)))
    starts = jnp.where(segment_ids != before, index, 0)
    return index - jax.lax.cummax(starts, axis=1)


def _call(params: Params, cfg: CaptionerConfig, method: str, *inputs: Any) -> Any:
    own: PyTree = {name: tree for name, tree in params.items() if name != TOWER}
    return Captioner(cfg).apply({"params": own}, *inputs, method=method)

"""Classifier-free guidance (arXiv 2207.12598) as a wrapper around the network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from soraxla.types import Array, PackedBatch

# (x (b l p), t (b s)) → prediction (b l p).
Denoise = Callable[[Array, Array], Array]
# What conditions it → the network under that condition. Called once for all steps, so
# that what depends on the condition alone is computed once.
Condition = Callable[[PackedBatch], Denoise]


def guided(
    condition: Condition,
    batch: PackedBatch,
    negative: PackedBatch | None = None,
    *,
    cfg_scale: float = 1.0,
) -> Denoise:
    """`u + cfg_scale·(c − u)`, both from one forward pass over twice the rows.

    At scale 1 this is c alone: the negative prompt is not read and nothing is doubled.

    Args:
        batch: the conditional rows.
        negative: the same rows with the text of the negative prompt (the empty text's
            embedding by default); its M may differ.

    Raises:
        ValueError: a scale other than 1 without negative rows, or rows that differ.
    """
    if cfg_scale == 1.0:
        return condition(batch)
    if negative is None:
        raise ValueError(
            f"cfg_scale {cfg_scale} needs the rows of a negative prompt: "
            "give them, or set cfg_scale to 1"
        )
    if negative.segment_ids.shape != batch.segment_ids.shape:
        raise ValueError(
            f"negative rows are {negative.segment_ids.shape}, expected "
            f"{batch.segment_ids.shape}: pack the same clips for both prompts"
        )
    denoise = condition(_stack(batch, negative))

    def combined(x: Array, t: Array) -> Array:
        twice = jnp.concatenate([x, x]), jnp.concatenate([t, t])
        conditional, unconditional = jnp.split(denoise(*twice), 2)
        return unconditional + cfg_scale * (conditional - unconditional)

    return combined


def _stack(a: PackedBatch, b: PackedBatch) -> PackedBatch:
    """The rows of both, the shorter text filled up with padding."""
    longest = max(a.text.shape[1], b.text.shape[1])

    def fill(batch: PackedBatch) -> PackedBatch:
        missing = longest - batch.text.shape[1]
        return batch._replace(
            text=jnp.pad(batch.text, ((0, 0), (0, missing), (0, 0))),
            text_segment_ids=jnp.pad(batch.text_segment_ids, ((0, 0), (0, missing))),
        )

    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), fill(a), fill(b))

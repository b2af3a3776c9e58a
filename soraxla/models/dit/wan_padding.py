"""Wan's padded prompts: one token that counts as all pads of a segment."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from soraxla.core.types import Array


def add_pads(
    text: Float[Array, "b m e"], ids: Int[Array, "b m"], segments: int, length: int
):
    """Appends one zero token per segment that counts as its `length − n` pads.

    n equal keys are one key whose logit gains log n. A prompt of `length` tokens has no
    pad.
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

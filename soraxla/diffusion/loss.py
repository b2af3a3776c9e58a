"""The training loss of packed rows, independent of how clips were packed."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from soraxla.core.types import Array, PackedBatch

_NORM_MIN = 1e-12  # of both vectors' squared lengths


def packed_mse(
    pred: Float[Array, "b l p"],
    target: Float[Array, "b l p"],
    batch: PackedBatch,
    weight: Float[Array, "b l"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns (Σ √n·mean, Σ √n) over segments; n is a segment's generated tokens.

    The mean squared error of a segment is taken over its generated tokens (neither
    condition tokens nor padding), each times its `weight` (1 if None), and weighs √n:
    between equal weight per clip and equal weight per token.

    The loss is the ratio of both sums over *all* devices and accumulation steps, so
    neither packing nor sharding can change it. Sums are fp32.
    """
    segments = batch.visit.shape[1]
    generated = (batch.segment_ids > 0) & jnp.logical_not(batch.condition_mask)
    ids = jnp.where(generated, batch.segment_ids, 0)
    of_segment = ids[:, :, None] == jnp.arange(1, segments + 1)[None, None, :]
    n_BS = jnp.sum(of_segment, axis=1).astype(jnp.float32)
    n_BL = jnp.take_along_axis(n_BS, jnp.maximum(ids - 1, 0), axis=1)
    # √n · (1/n) per token.
    weight_BL = jnp.where(generated, jnp.maximum(n_BL, 1.0) ** -0.5, 0.0)
    error = pred.astype(jnp.float32) - target.astype(jnp.float32)
    error_BL = jnp.mean(jnp.square(error), axis=-1)
    if weight is not None:
        error_BL = error_BL * weight
    return jnp.sum(weight_BL * error_BL), jnp.sum(jnp.sqrt(n_BS))


def packed_cosine(
    found: Float[Array, "b l f"],
    target: Float[Array, "b l f"],
    batch: PackedBatch,
    counted: Bool[Array, "b l"],
) -> Float[Array, ""]:
    """Returns Σ √n·(mean of 1 − cos) over segments; n as in `packed_mse`.

    The mean of a segment is taken over its `counted` tokens, 0 without any. Divided by
    the second sum of `packed_mse`, this is a loss from 0 to 2. It is computed in fp32.
    """
    segments = batch.visit.shape[1]
    ids = jnp.asarray(batch.segment_ids)
    generated = (ids > 0) & jnp.logical_not(batch.condition_mask)

    def number(tokens: Array) -> Array:
        """Returns how many of the tokens are of each token's segment."""
        of_segment = jnp.arange(1, segments + 1)[None, None, :] == ids[:, :, None]
        n_BS = jnp.sum(of_segment & tokens[:, :, None], axis=1)
        n_BL = jnp.take_along_axis(n_BS, jnp.maximum(ids - 1, 0), axis=1)
        return n_BL.astype(jnp.float32)

    a, b = (x.astype(jnp.float32) for x in (found, target))
    norms = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    cosine = jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(jnp.maximum(norms, _NORM_MIN))
    counted = (ids > 0) & counted
    weight = jnp.sqrt(number(generated)) / jnp.maximum(number(counted), 1.0)
    return jnp.sum(jnp.where(counted, weight * (1.0 - cosine), 0.0))

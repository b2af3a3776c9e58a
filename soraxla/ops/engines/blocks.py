"""Blocks of queries and keys that share a segment: those an engine has to visit."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from soraxla.core.types import Array


def blocks_meet(
    q_ids: Int[Array, "*b i q"], kv_ids: Int[Array, "*b j m"]
) -> Bool[jax.Array, "*b i j"]:
    """Returns whether the segment ids of a block of queries and one of keys overlap.

    Padding (0) is in no range of ids. The result is exact if ids ascend along a row, as
    in packed rows; in any other order it may include a block too many, never one too
    few.
    """
    (low_I, high_I), (low_J, high_J) = _ends(q_ids), _ends(kv_ids)
    meet_IJ = low_I[..., :, None] <= high_J[..., None, :]
    return meet_IJ & (low_J[..., None, :] <= high_I[..., :, None])


def _ends(ids):
    some = jnp.where(ids > 0, ids, jnp.iinfo(ids.dtype).max)
    return jnp.min(some, axis=-1), jnp.max(ids, axis=-1)

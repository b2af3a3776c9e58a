"""Which blocks of queries and of keys share a segment: what an engine has to visit."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from soraxla.core.types import Array


def blocks_meet(
    q_ids: Int[Array, "*b i q"], kv_ids: Int[Array, "*b j m"]
) -> Bool[jax.Array, "*b i j"]:
    """Whether the range of segment ids of a block of queries meets that of a block of
    keys; padding (0) is in no range.

    Exact where ids ascend along a row, as packed rows have them; in any other order a
    block too many may be named, never one too few.
    """
    (low_I, high_I), (low_J, high_J) = _ends(q_ids), _ends(kv_ids)
    meet_IJ = low_I[..., :, None] <= high_J[..., None, :]
    return meet_IJ & (low_J[..., None, :] <= high_I[..., :, None])


def _ends(ids):
    some = jnp.where(ids > 0, ids, jnp.iinfo(ids.dtype).max)
    return jnp.min(some, axis=-1), jnp.max(ids, axis=-1)

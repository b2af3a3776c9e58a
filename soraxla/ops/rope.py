"""Three-axis rotary position embedding (RoPE, arXiv 2104.09864; axes as in Wan 2.1).

A head of dim K is split into time, height and width, in that order; height and width
get 2⌊K/6⌋ each and time the rest. In an axis, feature pairs (2i, 2i+1) rotate by
`position · 10000^(−2i / axis dim)`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from soraxla.core.errors import UserError
from soraxla.core.types import Array


def rotary_axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Returns (time, height, width) features of a head; 128 is 44, 42, 42.

    Raises:
        UserError: `head_dim` is odd or below 6, which leaves an axis empty.
    """
    if head_dim % 2 or head_dim < 6:
        raise UserError(
            f"head dim {head_dim} cannot be split over three rotary axes: "
            "expected an even number of at least 6; change width or heads"
        )
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rotary_tables(
    positions: Float[Array, "b l 3"], head_dim: int, *, theta: float = 10000.0
) -> tuple[Float[Array, "b l half"], Float[Array, "b l half"]]:
    """Returns cosine and sine of every pair's angle, fp32, half = head_dim / 2.

    Args:
        positions: (t, h, w) of each token; t may be any real number, in latent frames
            at the model's `rope_fps`.
    """
    angles = []
    for axis, dim in enumerate(rotary_axis_dims(head_dim)):
        # The frequencies are rounded once from float64: fp32 powers drift by 1e-7 of
        # the angle, which at position 1000 is visible in the cosine.
        frequency = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        frequency = jnp.asarray(frequency[None, None, :], jnp.float32)
        angles.append(positions[:, :, axis, None].astype(jnp.float32) * frequency)
    angle_BLH = jnp.concatenate(angles, axis=-1)
    return jnp.cos(angle_BLH), jnp.sin(angle_BLH)


def rotate(
    x: Float[Array, "b l n k"],
    cos: Float[Array, "b l half"],
    sin: Float[Array, "b l half"],
) -> Float[Array, "b l n k"]:
    """Rotates each interleaved pair (a, b) to (a cos − b sin, a sin + b cos).

    The result is fp32: the caller rounds once, after the rotation.
    """
    x = x.astype(jnp.float32)
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)

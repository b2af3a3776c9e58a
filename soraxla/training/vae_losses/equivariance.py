"""Latents that keep their meaning at half the resolution."""

from dataclasses import dataclass

import jax.numpy as jnp
from einops import reduce
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.training.vae_losses.term import Clips, LossTerm, Reconstruction


@dataclass(frozen=True, kw_only=True)
class Equivariance(LossTerm):
    """The error of halved latents, decoded, against the halved clip (arXiv 2502.14831).

    Latents then have few details that halving would remove, and a transformer learns
    them more easily. The error is the mean absolute one.
    """

    weight: float = 0.25

    def value(self, clips: Clips, made: Reconstruction) -> Float[Array, ""]:
        assert made.half is not None
        height, width = made.half.shape[2:4]
        halved = half_size(clips.video[:, :, : 2 * height, : 2 * width])
        return jnp.mean(jnp.abs(made.half - halved))


def half_size(x: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c"]:
    """Returns the means of 2×2 positions, without an odd last row or column."""
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    return reduce(x, "b t (h p) (w q) c -> b t h w c", "mean", p=2, q=2)

"""The KL divergence of the posterior from a standard normal distribution."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.training.vae_losses.term import Clips, LossTerm, Reconstruction


@dataclass(frozen=True, kw_only=True)
class KL(LossTerm):
    """The KL divergence from N(0, 1), in nats per latent number."""

    weight: float = 1e-6

    def value(self, clips: Clips, made: Reconstruction) -> Float[Array, ""]:
        del clips
        mean, logvar = made.mean, made.logvar
        return 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1.0 - logvar)

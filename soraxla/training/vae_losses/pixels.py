"""The error of the reconstructed pixels."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.training.vae_losses.term import Clips, LossTerm, Reconstruction


@dataclass(frozen=True, kw_only=True)
class L1(LossTerm):
    """The mean absolute error of the pixels, or its smooth form, Charbonnier's.

    Attributes:
        epsilon: the ε of √(e² + ε²), as which an error e counts (Charbonnier); 0 is
            |e|.
    """

    weight: float = 1.0
    epsilon: float = 0.0

    def value(self, clips: Clips, made: Reconstruction) -> Float[Array, ""]:
        return self.distance(made.pixels, clips.video)

    def distance(self, a: Array, b: Array) -> Float[Array, ""]:
        """Returns the mean error between two arrays of one shape."""
        error = a - b
        if self.epsilon:
            return jnp.mean(jnp.sqrt(jnp.square(error) + self.epsilon**2))
        return jnp.mean(jnp.abs(error))

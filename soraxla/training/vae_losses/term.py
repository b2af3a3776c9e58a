"""A term of the VAE's loss, and the quantities that terms are functions of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray, PyTree

from soraxla.core.types import Array


class Clips(NamedTuple):
    """The clips of a step, in which no gradient is taken."""

    video: Float[Array, "b t h w 3"]  # pixels in −1…1
    key: PRNGKeyArray  # of the step
    features: PyTree = None  # parameters of a frozen network, for a term that has one


class Reconstruction(NamedTuple):
    """The outputs of the VAE for the clips of a step."""

    pixels: Float[Array, "b t h w 3"]  # before the clip to −1…1
    mean: Float[Array, "b tz hz wz z"]
    logvar: Float[Array, "b tz hz wz z"]
    half: Float[Array, "b t hh wh 3"] | None = None  # see `Equivariance`


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One term of the loss: `weight` times a mean, from step `start_step` on.

    Attributes:
        weight: factor of the term in the loss.
        start_step: number of steps before the first one that has the term.
    """

    weight: float
    start_step: int = 0

    def value(self, clips: Clips, made: Reconstruction) -> Float[Array, ""]:
        """Returns the term without its weight."""
        raise NotImplementedError


def from_start(
    term: LossTerm,
    step: Int[Array, ""],
    begun: Callable[[], T],
    before: Callable[[], T],
) -> T:
    """Returns `begun()` from the term's first step on, and `before()` until then."""
    if term.start_step == 0:
        return begun()
    return jax.lax.cond(step >= term.start_step, begun, before)


def zero() -> Float[Array, ""]:
    """Returns 0, the value of a term before its start."""
    return jnp.zeros(())

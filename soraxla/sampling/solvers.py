"""Solvers of the sampling ODE, one code for every schedule.

With z = x/(α+σ) and s = σ/(α+σ), the probability-flow ODE of any Gaussian schedule is
dz/ds = ε − x0, rectified flow's own (arXiv 2209.03003; Karras et al., arXiv 2206.00364,
change variables alike). s goes from the schedule's end to 0, where z = x0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Float

from soraxla.types import Array

# u, the unshifted time in [0, 1] → s of every token, (b l 1).
Level = Callable[[Array], Array]
# (z, u) → ε − x0, (b l p).
Velocity = Callable[[Array, Array], Array]


@runtime_checkable
class Solver(Protocol):
    """One step from u to u_next < u; it knows no schedule, prediction or guidance."""

    def step(
        self,
        level: Level,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        u: Float[Array, ""],
        u_next: Float[Array, ""],
    ) -> Float[Array, "b l p"]: ...


@dataclass(frozen=True, kw_only=True)
class Euler:
    """First order, one evaluation a step."""

    def step(
        self,
        level: Level,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        u: Float[Array, ""],
        u_next: Float[Array, ""],
    ) -> Float[Array, "b l p"]:
        return z + (level(u_next) - level(u)) * velocity(z, u)


@dataclass(frozen=True, kw_only=True)
class Heun:
    """Second order, two evaluations a step but one in the last (arXiv 2206.00364).

    At u = 0 a network was never trained and ε is not determined; the last step is
    Euler's, whose local error is of the order of the whole.
    """

    def step(
        self,
        level: Level,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        u: Float[Array, ""],
        u_next: Float[Array, ""],
    ) -> Float[Array, "b l p"]:
        ds = level(u_next) - level(u)
        first = velocity(z, u)
        euler = z + ds * first

        def corrected() -> Array:
            return z + 0.5 * ds * (first + velocity(euler, u_next))

        return jax.lax.cond(u_next > 0.0, corrected, lambda: euler)

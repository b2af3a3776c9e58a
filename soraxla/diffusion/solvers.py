"""Solvers of the sampling ODE (and SDE), one code for every schedule.

With z = x/(α+σ) and s = σ/(α+σ), the probability-flow ODE of any Gaussian schedule is
dz/ds = ε − x0, rectified flow's own (arXiv 2209.03003; Karras et al., arXiv 2206.00364,
change variables alike). s goes from the schedule's end to 0, where z = x0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.diffusion.time_grid import Grid, even_grid, unipc_grid, wan_euler_grid


class GridPoint(NamedTuple):
    """One stop of the grid; a solver reads s and hands t and asked to `velocity`.

    `noise` draws standard normal noise (b l p) of this stop's own, 0 at padding.
    """

    s: Float[Array, "b l 1"]
    t: Float[Array, "b s"]
    asked: Float[Array, "b s"]
    noise: Callable[[], Array]


# (z, where it stands) → ε − x0, (b l p).
Velocity = Callable[[Array, GridPoint], Array]
# What a solver remembers from step to step, any pytree of arrays.
Memory = TypeVar("Memory")


@runtime_checkable
class Solver(Protocol[Memory]):
    """Its own times and one step; it knows no schedule, prediction or guidance."""

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        """The stops from u = `start` on, one more than steps.

        UserError for fewer than one step.
        """
        ...

    def start(self, z: Float[Array, "b l p"], first: GridPoint) -> Memory:
        """The memory before the first step."""
        ...

    def step(
        self,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        memory: Memory,
        here: GridPoint,
        there: GridPoint,
    ) -> tuple[Float[Array, "b l p"], Memory]:
        """z there, from z here."""
        ...


class _OneStep:
    """Even times, and nothing to remember."""

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        return even_grid(steps, shift, start)

    def start(self, z: Float[Array, "b l p"], first: GridPoint) -> tuple[()]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Euler(_OneStep):
    """First order, one evaluation a step.

    α'·x0 + σ'·ε, divided by α' + σ', is z + (s' − s)(ε − x0): so on the schedules of
    DDPM this is DDIM without its noise (arXiv 2010.02502, η = 0).
    """

    def step(
        self,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        memory: tuple[()],
        here: GridPoint,
        there: GridPoint,
    ) -> tuple[Float[Array, "b l p"], tuple[()]]:
        return z + (there.s - here.s) * velocity(z, here), memory


@dataclass(frozen=True, kw_only=True)
class EulerAncestral(_OneStep):
    """Euler's step with the noise of the reverse process: x' ~ q(x' | x, x0), DDPM's
    ancestral sampling (arXiv 2006.11239), which is DDIM's with η = 1.

    So what an imperfect network has done wrong is noised over, and done again.
    """

    def step(
        self,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        memory: tuple[()],
        here: GridPoint,
        there: GridPoint,
    ) -> tuple[Float[Array, "b l p"], tuple[()]]:
        v = velocity(z, here)
        x0 = z - here.s * v
        kept = _ratio((1.0 - here.s) * there.s, (1.0 - there.s) * here.s)
        renewed = jnp.sqrt(jnp.maximum(1.0 - jnp.square(kept), 0.0))
        eps = kept * (x0 + v) + renewed * there.noise()
        return (1.0 - there.s) * x0 + there.s * eps, memory


@dataclass(frozen=True, kw_only=True)
class WanEuler(Euler):
    """Euler at the times of Wan's flow-matching scheduler."""

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        return wan_euler_grid(steps, shift, start)


@dataclass(frozen=True, kw_only=True)
class Heun(_OneStep):
    """Second order, two evaluations a step but one in the last (arXiv 2206.00364).

    At s = 0 a network was never trained and ε is not determined; the last step is
    Euler's, whose local error is of the order of the whole.
    """

    def step(
        self,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        memory: tuple[()],
        here: GridPoint,
        there: GridPoint,
    ) -> tuple[Float[Array, "b l p"], tuple[()]]:
        ds = there.s - here.s
        first = velocity(z, here)
        euler = z + ds * first

        def corrected() -> Array:
            return z + 0.5 * ds * (first + velocity(euler, there))

        last = jnp.all(there.s == 0.0)
        return jax.lax.cond(last, lambda: euler, corrected), memory


class SolverState(NamedTuple):
    """UniPC's memory: the last stop, corrected, and the estimates of x0 at two."""

    z: Float[Array, "b l p"]
    s: Float[Array, "b l 1"]
    x0: Float[Array, "b l p"]
    s_before: Float[Array, "b l 1"]
    x0_before: Float[Array, "b l p"]


@dataclass(frozen=True, kw_only=True)
class UniPC:
    """Multistep predictor and corrector of order 2 (B₂(h), arXiv 2302.04867), Wan's.

    One evaluation a step. With what the network answers here the step that led here is
    done again, better, and then the next is predicted; x0 stays as it was estimated
    before the correction. In λ = log((1−s)/s) a step is, exactly,

        z' = (s'/s)·z + (1 − s'/s)·x̂,  x̂ = the mean of x0(λ) under the weight e^λ,

    and x0(λ) is interpolated between the estimates at hand. An interval of length 0
    says nothing of x0's slope: so the first step is of first order, and stops that a
    schedule holds at one level do no harm. The last step, to s = 0, takes x0.
    """

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        return unipc_grid(steps, shift, start)

    def start(self, z: Float[Array, "b l p"], first: GridPoint) -> SolverState:
        nothing = jnp.zeros_like(z)
        return SolverState(
            z=z, s=first.s, x0=nothing, s_before=first.s, x0_before=nothing
        )

    def step(
        self,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        memory: SolverState,
        here: GridPoint,
        there: GridPoint,
    ) -> tuple[Float[Array, "b l p"], SolverState]:
        past = memory
        x0 = z - here.s * velocity(z, here)
        z = _blend(past.z, _corrected(past, x0, here.s), past.s, here.s)
        slope = _ratio(x0 - past.x0, _interval(past.s, here.s))
        # B₂ takes x0's mean over a straight line at its middle, whatever the weight.
        halfway = jnp.where(there.s > 0.0, 0.5 * _interval(here.s, there.s), 0.0)
        now = SolverState(z=z, s=here.s, x0=x0, s_before=past.s, x0_before=past.x0)
        return _blend(z, x0 + halfway * slope, here.s, there.s), now


SOLVERS: dict[str, Solver] = {
    "euler": Euler(),
    "ddim": Euler(),
    "euler-ancestral": EulerAncestral(),
    "heun": Heun(),
    "wan-euler": WanEuler(),
    "unipc": UniPC(),
}


def _corrected(past: SolverState, x0: Array, s: Array) -> Array:
    """Mean of x0 over the step from `past` to here, by the parabola through all three.

    x0(τ) = past.x0 + aτ + bτ² for τ in [0, 1], under the weight e^(hτ); with two
    estimates only, halfway between them.
    """
    h, before = _interval(past.s, s), _interval(past.s_before, past.s)
    rise = x0 - past.x0
    tangent = h * _ratio(past.x0 - past.x0_before, before)
    b = (rise - tangent) * _ratio(h, h + before)
    # Digits are lost as h shrinks, but what they weigh shrinks as fast.
    whole = -_ratio(1.0, jnp.expm1(-h))
    mean = whole - _ratio(1.0, h)
    mean_square = whole - 2.0 * _ratio(mean, h)
    parabola = (rise - b) * mean + b * mean_square
    return past.x0 + jnp.where(before > 0.0, parabola, 0.5 * rise)


def _blend(z: Array, x0: Array, s: Array, s_next: Array) -> Array:
    """The latents at s_next < s on the straight line through z at s and x0 at 0."""
    return (s_next / s) * z + ((s - s_next) / s) * x0


def _interval(s: Array, s_next: Array) -> Array:
    """Length of a step in λ, at least 0; infinite to s = 0."""
    return _log_snr(s_next) - _log_snr(s)


def _log_snr(s: Array) -> Array:
    return jnp.log1p(-s) - jnp.log(s)


def _ratio(a: Array | float, b: Array) -> Array:
    """a / b, and 0 where b is 0."""
    return jnp.where(b == 0.0, 0.0, a / jnp.where(b == 0.0, 1.0, b))

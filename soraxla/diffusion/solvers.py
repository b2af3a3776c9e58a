"""Solvers of the sampling ODE (and SDE), one implementation for every schedule.

With z = x/(α+σ) and s = σ/(α+σ), the probability-flow ODE of any Gaussian schedule is
dz/ds = ε − x0, as for rectified flow (arXiv 2209.03003; Karras et al., arXiv
2206.00364, change variables alike). s decreases from the schedule's end to 0, where z =
x0.
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
    """One point of the grid; a solver reads s, and `velocity` reads t and model_t.

    `noise` returns this point's standard normal noise (b l p), 0 at padding.
    """

    s: Float[Array, "b l 1"]
    t: Float[Array, "b s"]
    model_t: Float[Array, "b s"]
    noise: Callable[[], Array]


# (z, its grid point) → ε − x0, (b l p).
Velocity = Callable[[Array, GridPoint], Array]
# A solver's state from step to step, any pytree of arrays.
Memory = TypeVar("Memory")


@runtime_checkable
class Solver(Protocol[Memory]):
    """A time grid and one step; independent of schedule, prediction and guidance."""

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        """Returns the points from u = `start` on, one more than steps.

        Raises:
            UserError: fewer than one step.
        """
        ...

    def start(self, z: Float[Array, "b l p"], first: GridPoint) -> Memory:
        """Returns the memory before the first step."""
        ...

    def step(
        self,
        velocity: Velocity,
        z: Float[Array, "b l p"],
        memory: Memory,
        here: GridPoint,
        there: GridPoint,
    ) -> tuple[Float[Array, "b l p"], Memory]:
        """Returns z at `there`, from z at `here`."""
        ...


class _OneStep:
    """The grid and the empty memory of a solver that looks at no earlier point."""

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        return even_grid(steps, shift, start)

    def start(self, z: Float[Array, "b l p"], first: GridPoint) -> tuple[()]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Euler(_OneStep):
    """The first-order solver, one evaluation per step.

    α'·x0 + σ'·ε, divided by α' + σ', is z + (s' − s)(ε − x0), so on DDPM's schedules
    this is DDIM without added noise (arXiv 2010.02502, η = 0).
    """

    def step(self, velocity: Velocity, z, memory, here: GridPoint, there: GridPoint):
        return z + (there.s - here.s) * velocity(z, here), memory


@dataclass(frozen=True, kw_only=True)
class EulerAncestral(_OneStep):
    """Euler's step with the noise of the reverse process, x' ~ q(x' | x, x0).

    This is DDPM's ancestral sampling (arXiv 2006.11239), which is DDIM with η = 1. The
    noise covers errors of an imperfect network, which later steps then correct.
    """

    def step(self, velocity: Velocity, z, memory, here: GridPoint, there: GridPoint):
        v = velocity(z, here)
        x0 = z - here.s * v
        kept = _ratio((1.0 - here.s) * there.s, (1.0 - there.s) * here.s)
        renewed = jnp.sqrt(jnp.maximum(1.0 - jnp.square(kept), 0.0))
        eps = kept * (x0 + v) + renewed * there.noise()
        return (1.0 - there.s) * x0 + there.s * eps, memory


@dataclass(frozen=True, kw_only=True)
class WanEuler(Euler):
    """Euler's step at the times of Wan's flow-matching scheduler."""

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        return wan_euler_grid(steps, shift, start)


@dataclass(frozen=True, kw_only=True)
class Heun(_OneStep):
    """The second-order solver, two evaluations per step, one in the last (2206.00364).

    At s = 0 a network was never trained and ε is undetermined, so the last step is
    Euler's, whose local error is of the order of the whole.
    """

    def step(self, velocity: Velocity, z, memory, here: GridPoint, there: GridPoint):
        ds = there.s - here.s
        first = velocity(z, here)
        euler = z + ds * first

        def corrected() -> Array:
            return z + 0.5 * ds * (first + velocity(euler, there))

        last = jnp.all(there.s == 0.0)
        return jax.lax.cond(last, lambda: euler, corrected), memory


class SolverState(NamedTuple):
    """UniPC's memory: the last corrected point, and estimates of x0 at two points."""

    z: Float[Array, "b l p"]
    s: Float[Array, "b l 1"]
    x0: Float[Array, "b l p"]
    s_before: Float[Array, "b l 1"]
    x0_before: Float[Array, "b l p"]


@dataclass(frozen=True, kw_only=True)
class UniPC:
    """Wan's multistep predictor-corrector of order 2 (B₂(h), arXiv 2302.04867).

    It evaluates the network once per step. The network's answer at a point first
    corrects the step that led there, then predicts the next; x0 keeps its estimate from
    before the correction. In λ = log((1−s)/s) a step is, exactly,

        z' = (s'/s)·z + (1 − s'/s)·x̂,  x̂ = the mean of x0(λ) under the weight e^λ,

    and x0(λ) is interpolated between the available estimates. An interval of length 0
    does not determine the slope of x0, so the first step is of first order, and equal
    noise levels in a schedule do no harm. The last step, to s = 0, takes x0.
    """

    def grid(self, steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
        return unipc_grid(steps, shift, start)

    def start(self, z: Float[Array, "b l p"], first: GridPoint) -> SolverState:
        zeros = jnp.zeros_like(z)
        return SolverState(z=z, s=first.s, x0=zeros, s_before=first.s, x0_before=zeros)

    def step(
        self,
        velocity: Velocity,
        z,
        memory: SolverState,
        here: GridPoint,
        there: GridPoint,
    ):
        past = memory
        x0 = z - here.s * velocity(z, here)
        z = _blend(past.z, _corrected(past, x0, here.s), past.s, here.s)
        slope = _ratio(x0 - past.x0, _interval(past.s, here.s))
        # B₂ takes the mean of x0 at the middle of the line, for any weight.
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
    """Returns the mean of x0 over the step from `past`, by a parabola."""
    h, before = _interval(past.s, s), _interval(past.s_before, past.s)
    rise = x0 - past.x0
    tangent = h * _ratio(past.x0 - past.x0_before, before)
    b = (rise - tangent) * _ratio(h, h + before)
    # Small h loses digits, but their weight shrinks as fast.
    whole = -_ratio(1.0, jnp.expm1(-h))
    mean = whole - _ratio(1.0, h)
    mean_square = whole - 2.0 * _ratio(mean, h)
    parabola = (rise - b) * mean + b * mean_square
    return past.x0 + jnp.where(before > 0.0, parabola, 0.5 * rise)


def _blend(z: Array, x0: Array, s: Array, s_next: Array) -> Array:
    """Returns the latents at s_next < s on the line through z at s and x0 at 0."""
    return (s_next / s) * z + ((s - s_next) / s) * x0


def _interval(s: Array, s_next: Array) -> Array:
    """Returns the length of a step in λ, at least 0; infinite to s = 0."""
    return _log_snr(s_next) - _log_snr(s)


def _log_snr(s: Array) -> Array:
    return jnp.log1p(-s) - jnp.log(s)


def _ratio(a: Array | float, b: Array) -> Array:
    """Returns a / b, and 0 where b is 0."""
    return jnp.where(b == 0.0, 0.0, a / jnp.where(b == 0.0, 1.0, b))

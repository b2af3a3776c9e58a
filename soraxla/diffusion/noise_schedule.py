"""Noise schedules, times and time shifts.

A schedule is `x_t = α(t)·x0 + σ(t)·ε` for t in [0, 1], 1 = noise; each has α(0) = 1 and
σ(0) = 0.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from soraxla.core.errors import UserError
from soraxla.core.types import Array

# ε-prediction recovers x0 as (x − σε)/α, so 1/α multiplies the network's error.
# DDPM's linear schedule stops at α = 0.0066; no schedule here goes far below it.
ALPHA_MIN = 5e-3

_UNIFORM_RATE = 0.1


@runtime_checkable
class Schedule(Protocol):
    """The interface of a schedule."""

    # The latest time at which ε determines x0, that is α ≥ ALPHA_MIN.
    max_eps_time: ClassVar[float]

    def alpha(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Returns the factor of the clean sample."""
        ...

    def sigma(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Returns the factor of the noise."""
        ...


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """The schedule α = 1 − t, σ = t (arXiv 2209.03003): straight paths to noise."""

    max_eps_time: ClassVar[float] = 1.0 - ALPHA_MIN

    def alpha(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return 1.0 - t

    def sigma(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return t


@dataclass(frozen=True, kw_only=True)
class DDPMLinear:
    """The variance-preserving schedule with β linear in time (arXiv 2006.11239).

    It is the continuous limit: α² = exp(−∫β), with β from `beta_min` to `beta_max`,
    DDPM's 1e-4…0.02 times 1000 steps. With the defaults α(1) = 0.0066; α is never below
    `ALPHA_MIN`.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    max_eps_time: ClassVar[float] = 1.0

    def alpha(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        # expm1, since 1 − α² loses every digit near t = 0.
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))

    def _integral(self, t):
        area = t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))
        return jnp.minimum(area, -2.0 * math.log(ALPHA_MIN))


@dataclass(frozen=True, kw_only=True)
class DDPMCosine:
    """The variance-preserving schedule with α a cosine (iDDPM, arXiv 2102.09672).

    α = cos(φ(t)) / cos(φ(0)), φ(t) = π/2 · (t + offset) / (1 + offset), clipped below
    at `ALPHA_MIN`, as iDDPM clips β at 0.999: the last 0.3 % of times have one level.
    """

    offset: float = 0.008
    max_eps_time: ClassVar[float] = 1.0

    def alpha(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        alpha = jnp.cos(self._angle(t)) / math.cos(self._angle(0.0))
        return jnp.clip(alpha, ALPHA_MIN, 1.0)

    def sigma(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        # 1 − α² = sin(φ−φ0)·sin(φ+φ0)/cos²φ0 keeps its digits if α is close to 1.
        first = self._angle(0.0)
        turned = 0.5 * math.pi * t / (1.0 + self.offset)
        variance = jnp.sin(turned) * jnp.sin(turned + 2.0 * first)
        variance = variance / math.cos(first) ** 2
        return jnp.sqrt(jnp.clip(variance, 0.0, 1.0 - ALPHA_MIN**2))

    def _angle(self, t):
        return 0.5 * math.pi * (t + self.offset) / (1.0 + self.offset)


SCHEDULES: dict[str, Schedule] = {
    "rectified_flow": RectifiedFlow(),
    "ddpm_linear": DDPMLinear(),
    "ddpm_cosine": DDPMCosine(),
}


def time_shift(
    rule: float | Literal["auto"], *, height: int, width: int, latent_frames: int
) -> float:
    """Returns the shift α of a clip: a larger clip needs more noise to hide its signal.

    "auto" is clip(√(height·width)/256 · √latent_frames, 1, 12), sides in pixels (the
    √-of-tokens law of SD3, arXiv 2403.03206); a number is returned as it is.

    Raises:
        UserError: the rule is neither "auto" nor a number above 0.
    """
    if rule == "auto":
        alpha = math.sqrt(height * width) / 256.0 * math.sqrt(latent_frames)
        return min(max(alpha, 1.0), 12.0)
    if not isinstance(rule, int | float) or not 0.0 < rule < math.inf:
        raise UserError(f"time shift {rule!r}: expected 'auto' or a number above 0")
    return float(rule)


def shift_time(u: Float[Array, "*n"], shift: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns t = αu / (1 + (α−1)u), which keeps 0 and 1; α > 1 adds noise."""
    return shift * u / (1.0 + (shift - 1.0) * u)


def sample_times(
    keys: Key[jax.Array, "b s"], shift: Float[Array, "b s"]
) -> Float[Array, "b s"]:
    """Draws one training time per segment: logit-normal (SD3) or uniform, then shifted.

    10 % of times are uniform, to train the ends, which a logit-normal hardly reaches.
    """

    def one(key):
        pick, normal, uniform = jax.random.split(key, 3)
        return jnp.where(
            jax.random.uniform(pick) < _UNIFORM_RATE,
            jax.random.uniform(uniform),
            jax.nn.sigmoid(jax.random.normal(normal)),
        )

    return shift_time(jax.vmap(jax.vmap(one))(keys), shift)

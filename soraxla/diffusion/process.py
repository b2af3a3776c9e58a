"""The diffusion process: noise, corruption, and the x0 and ε of a prediction."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key, UInt32

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.diffusion.noise_schedule import SCHEDULES
from soraxla.diffusion.normal import normal

ScheduleName = Literal["rectified_flow", "ddpm_linear", "ddpm_cosine"]
Prediction = Literal["flow", "eps", "x0", "v"]
PREDICTIONS: tuple[Prediction, ...] = ("flow", "eps", "x0", "v")

# The smallest divisor, where a prediction does not determine the result at that time.
_DIVISOR_MIN = 1e-4
# The same in the loss, so that differences which a small network cannot learn do not
# outweigh all that it can.
_LOSS_DIVISOR_MIN = 0.2


class Purpose(IntEnum):
    """The purposes of random numbers. The values never change: runs resume by them."""

    TIME = 1  # the training time of a visit
    NOISE = 2  # the training noise of a visit
    SAMPLE = 3  # the initial noise of a generated clip
    POSTERIOR = 4  # the VAE's posterior sample, by training step
    EVAL = 5  # the noise of an evaluation, never of training
    CONDITION = 6  # the training time of a visit's condition tokens
    SOLVER = 7  # the noise that a solver adds at a grid point
    ROUTE = 8  # the tokens of a visit that skip blocks in training
    SECOND_TIME = 9  # the other training time of a visit
    SECOND_TOKENS = 10  # the tokens of a visit that have it


@dataclass(frozen=True, kw_only=True)
class Process:
    """A schedule, by its name in `SCHEDULES`, and the network's prediction.

    The prediction is one of flow = ε − x0 · eps = ε · x0 = x0 · v = αε − σx0 (arXiv
    2202.00512). Times are per token (b, l); a prediction is affine in x0 for fixed x
    and t, so guidance may mix predictions without converting them.

    Attributes:
        schedule: the noise schedule.
        prediction: what the network predicts.
    """

    schedule: ScheduleName = "rectified_flow"
    prediction: Prediction = "flow"

    def __post_init__(self) -> None:
        allowed = {"schedule": tuple(SCHEDULES), "prediction": PREDICTIONS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise UserError(
                    f"{name} {getattr(self, name)!r}: expected one of "
                    f"{', '.join(values)}"
                )

    @property
    def max_time(self) -> float:
        """The latest useful time: ε-prediction determines nothing where α is 0."""
        return (
            SCHEDULES[self.schedule].max_eps_time if self.prediction == "eps" else 1.0
        )

    def levels(
        self, t: Float[Array, "b l"]
    ) -> tuple[Float[Array, "b l 1"], Float[Array, "b l 1"]]:
        """Returns (α, σ) of every token."""
        schedule = SCHEDULES[self.schedule]
        return schedule.alpha(t)[:, :, None], schedule.sigma(t)[:, :, None]

    def corrupt(
        self,
        x0: Float[Array, "b l p"],
        eps: Float[Array, "b l p"],
        t: Float[Array, "b l"],
    ) -> Float[Array, "b l p"]:
        """Returns x_t = α(t)·x0 + σ(t)·ε."""
        alpha, sigma = self.levels(t)
        return alpha * x0 + sigma * eps

    def target(
        self,
        x0: Float[Array, "b l p"],
        eps: Float[Array, "b l p"],
        t: Float[Array, "b l"],
    ) -> Float[Array, "b l p"]:
        """Returns a perfect network's answer for this x0 and ε."""
        if self.prediction == "flow":
            return eps - x0
        if self.prediction == "eps":
            return eps
        if self.prediction == "x0":
            return x0
        alpha, sigma = self.levels(t)
        return alpha * eps - sigma * x0

    def loss_weight(self, t: Float[Array, "b l"]) -> Float[Array, "b l"]:
        """Returns the weight of a token's squared error in training.

        It is 1, except for x0-prediction: there the error counts as that of the implied
        velocity (x − x0) / σ, as in arXiv 2511.13720. Without it, the latest times,
        where a clip is least determined, dominate training.
        """
        if self.prediction != "x0":
            return jnp.ones_like(t)
        sigma = self.levels(t)[1][:, :, 0]
        return 1.0 / jnp.square(jnp.maximum(sigma, _LOSS_DIVISOR_MIN))

    def to_x0_eps(
        self,
        pred: Float[Array, "b l p"],
        x: Float[Array, "b l p"],
        t: Float[Array, "b l"],
    ) -> tuple[Float[Array, "b l p"], Float[Array, "b l p"]]:
        """Returns (x0, ε) that agree with the prediction and with x = αx0 + σε.

        ε of an x0-prediction at t = 0, and x0 of an eps-prediction where α = 0, are
        undetermined: both are finite there and meaningless.
        """
        alpha, sigma = self.levels(t)
        if self.prediction == "flow":
            x0 = (x - sigma * pred) / (alpha + sigma)
            return x0, x0 + pred
        if self.prediction == "eps":
            return (x - sigma * pred) / jnp.maximum(alpha, _DIVISOR_MIN), pred
        if self.prediction == "x0":
            return pred, (x - alpha * pred) / jnp.maximum(sigma, _DIVISOR_MIN)
        norm = alpha**2 + sigma**2
        return (alpha * x - sigma * pred) / norm, (sigma * x + alpha * pred) / norm


def sample_keys(
    seed: int | Key[jax.Array, ""], purpose: Purpose, visit: UInt32[Array, "b s"]
) -> Key[jax.Array, "b s"]:
    """Returns one key per segment, a function of (seed, purpose, visit) only."""
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    key = jax.random.fold_in(key, int(purpose))
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))
    return fold(key, jnp.asarray(visit))


def noise(
    seed: int | Key[jax.Array, ""],
    visit: UInt32[Array, "b s"],
    segment_ids: Int[Array, "b l"],
    token_index: Int[Array, "b l"],
    patch_dim: int,
    *,
    purpose: Purpose = Purpose.NOISE,
) -> Float[Array, "b l p"]:
    """Returns standard normal noise of every token, fp32; 0 at padding.

    A token's noise is a function of (seed, purpose, visit, its index in the segment):
    the same in any row, position and step, on any number of devices.
    """

    def token(key, index):
        return normal(jax.random.fold_in(key, index), (patch_dim,))

    def row(keys, ids, index):
        return jax.vmap(token)(keys[jnp.maximum(ids - 1, 0)], index)

    keys = sample_keys(seed, purpose, visit)
    eps = jax.vmap(row)(keys, jnp.asarray(segment_ids), jnp.asarray(token_index))
    return jnp.where((segment_ids > 0)[..., None], eps, 0.0)


def token_bits(
    seed: int,
    visit: UInt32[Array, "b s"],
    segment_ids: Int[Array, "b l"],
    token_index: Int[Array, "b l"],
    *,
    purpose: Purpose,
) -> UInt32[Array, "b l"]:
    """Returns 32 random bits of every token, a function of the same as its noise."""

    def token(key, index):
        return jax.random.bits(jax.random.fold_in(key, index), dtype=jnp.uint32)

    def row(keys, ids, index):
        return jax.vmap(token)(keys[jnp.maximum(ids - 1, 0)], index)

    keys = sample_keys(seed, purpose, visit)
    return jax.vmap(row)(keys, jnp.asarray(segment_ids), jnp.asarray(token_index))


def token_times(
    t: Float[Array, "b s"], segment_ids: Int[Array, "b l"]
) -> Float[Array, "b l"]:
    """Returns each token's time, gathered from its segment's; 0 at padding."""
    time = jnp.take_along_axis(t, jnp.maximum(segment_ids - 1, 0), axis=1)
    return jnp.where(segment_ids > 0, time, 0.0)

"""The sampler: one `lax.scan` over the times, every segment on its own shifted grid."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from soraxla.diffusion.process import Process, token_times
from soraxla.diffusion.schedule import shift_time
from soraxla.sampling.guidance import Denoise
from soraxla.sampling.solvers import Solver
from soraxla.types import Array, PackedBatch


def time_grid(steps: int) -> Float[Array, "n"]:
    """steps + 1 unshifted times u from 1, noise, to 0, clean.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: expected at least 1")
    return jnp.linspace(1.0, 0.0, steps + 1)


def sample(
    denoise: Denoise,
    noise: Float[Array, "b l p"],
    batch: PackedBatch,
    *,
    process: Process,
    solver: Solver,
    steps: int,
) -> Float[Array, "b l p"]:
    """Clean latents from noise; known tokens are `batch.latents`, padding is 0.

    Args:
        denoise: prediction for corrupted tokens (b l p) at times (b s); see
            `guidance.guided`. Known tokens come to it clean.
        noise: standard normal, the corrupted tokens at u = 1.
        batch: segments, known tokens and the shift of each segment; the conditions
            themselves belong to `denoise`.

    Raises:
        ValueError: fewer than one step.
    """
    times = time_grid(steps)
    padding_BL1 = (jnp.asarray(batch.segment_ids) == 0)[:, :, None]
    known_BL1 = jnp.asarray(batch.known)[:, :, None]

    def segment_times(u: Array) -> Array:
        t_BS = shift_time(jnp.broadcast_to(u, batch.shift.shape), batch.shift)
        return jnp.minimum(t_BS, process.max_time)

    def levels(u: Array) -> tuple[Array, Array]:
        t_BL = token_times(segment_times(u), batch.segment_ids)
        alpha, sigma = process.levels(t_BL)
        return sigma / (alpha + sigma), alpha + sigma

    def velocity(z: Array, u: Array) -> Array:
        t_BS = segment_times(u)
        x = jnp.where(known_BL1, batch.latents, z * levels(u)[1])
        t_BL = token_times(t_BS, batch.segment_ids)
        x0, eps = process.to_x0_eps(denoise(x, t_BS), x, t_BL)
        return eps - x0

    def step(z: Array, u_pair: tuple[Array, Array]):
        z = solver.step(lambda u: levels(u)[0], velocity, z, *u_pair)
        return z, None

    z = jnp.asarray(noise) / levels(times[0])[1]
    z, _ = jax.lax.scan(step, z, (times[:-1], times[1:]))
    z = jnp.where(known_BL1, batch.latents, z)
    return jnp.where(padding_BL1, 0.0, z)

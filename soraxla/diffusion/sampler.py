"""The sampler: one `lax.scan` over the grid, every segment at its own times."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.guidance import Denoise
from soraxla.diffusion.process import Process, Purpose, noise, token_times
from soraxla.diffusion.solvers import GridPoint, Solver
from soraxla.diffusion.time_grid import Grid
from soraxla.parallel.mesh import constrain


def sample(
    denoise: Denoise,
    x: Float[Array, "b l p"],
    batch: PackedBatch,
    grid: Grid,
    *,
    process: Process,
    solver: Solver,
    seed: int | Key[jax.Array, ""] = 0,
) -> Float[Array, "b l p"]:
    """Clean latents from corrupted ones; known tokens are `batch.latents`, padding 0.

    Args:
        denoise: prediction for corrupted tokens (b l p) at times (b s); see
            `guidance.guided`.
        x: the tokens at the grid's first stop, noise where a clip is made from nothing;
            the known ones as `denoise` is to see them at all stops.
        batch: segments and known tokens; the conditions themselves belong to
            `denoise`, and each segment's shift to the grid.
        grid: `solver.grid(steps, batch.shift)`, made outside of any jit.
        seed: of the noise that a stochastic solver adds.
    """
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    key = jax.random.fold_in(key, int(Purpose.STOP))
    ids_BL = jnp.asarray(batch.segment_ids)
    padding_BL1 = (ids_BL == 0)[:, :, None]
    known_BL1 = jnp.asarray(batch.condition_mask)[:, :, None]

    def of_tokens(t_BS: Array) -> Array:
        # Padding goes along with the first segment: a level of 0 is the end's alone.
        return token_times(t_BS, jnp.maximum(ids_BL, 1))

    def levels(t_BS: Array) -> tuple[Array, Array]:
        alpha, sigma = process.levels(of_tokens(t_BS))
        return sigma / (alpha + sigma), alpha + sigma

    def stop(at: Grid, number: Int[Array, ""]) -> GridPoint:
        def drawn() -> Array:
            own = jax.random.fold_in(key, number)
            place = batch.visit, batch.segment_ids, batch.token_index
            eps = noise(own, *place, x.shape[-1], purpose=Purpose.STOP)
            return constrain(eps, "batch", "tokens", None)

        t_BS = jnp.minimum(at.t, process.max_time)
        asked_BS = jnp.minimum(at.asked, process.max_time)
        return GridPoint(s=levels(t_BS)[0], t=t_BS, asked=asked_BS, noise=drawn)

    def velocity(z: Array, at: GridPoint) -> Array:
        x_t = jnp.where(known_BL1, x, z * levels(at.t)[1])
        pred = denoise(x_t, at.asked)
        x0, eps = process.to_x0_eps(pred, x_t, of_tokens(at.t))
        return eps - x0

    def step(carry: tuple, ends: tuple):
        return solver.step(velocity, *carry, *(stop(*end) for end in ends)), None

    def of_stops(which: int | slice) -> tuple[Grid, Array]:
        return Grid(*(x[which] for x in grid)), jnp.arange(len(grid.t))[which]

    first, ends = stop(*of_stops(0)), (of_stops(slice(-1)), of_stops(slice(1, None)))
    z = jnp.asarray(x) / levels(first.t)[1]
    (z, _), _ = jax.lax.scan(step, (z, solver.start(z, first)), ends)
    z = jnp.where(known_BL1, batch.latents, z)
    return jnp.where(padding_BL1, 0.0, z)

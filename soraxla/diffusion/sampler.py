"""The sampler: one `lax.scan` over the grid, with separate times for every segment."""

from functools import partial

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
    """Returns clean latents; condition tokens keep `batch.latents`, padding is 0.

    Args:
        denoise: prediction for corrupted tokens (b l p) at times (b s); see
            `guidance.guided`.
        x: the tokens at the grid's first point: noise, or a corrupted clip; condition
            tokens as `denoise` sees them at all points.
        batch: segments and condition tokens; `denoise` holds the conditions, and the
            grid each segment's shift.
        grid: `solver.grid(steps, batch.shift)`, made outside of any jit.
        seed: of the noise that a stochastic solver adds.
    """
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    key = jax.random.fold_in(key, int(Purpose.SOLVER))
    ids_BL = jnp.asarray(batch.segment_ids)
    condition_BL1 = jnp.asarray(batch.condition_mask)[:, :, None]

    def of_tokens(t_BS: Array) -> Array:
        # Padding takes the first segment's level, since level 0 means the end.
        return token_times(t_BS, jnp.maximum(ids_BL, 1))

    def levels(t_BS: Array) -> tuple[Array, Array]:
        alpha, sigma = process.levels(of_tokens(t_BS))
        return sigma / (alpha + sigma), alpha + sigma

    def point(at: Grid, number: Int[Array, ""]) -> GridPoint:
        t_BS = jnp.minimum(at.t, process.max_time)
        model_t_BS = jnp.minimum(at.model_t, process.max_time)
        noise_here = partial(_solver_noise, key, number, batch, x.shape[-1])
        return GridPoint(
            s=levels(t_BS)[0], t=t_BS, model_t=model_t_BS, noise=noise_here
        )

    def velocity(z: Array, at: GridPoint) -> Array:
        x_t = jnp.where(condition_BL1, x, z * levels(at.t)[1])
        pred = denoise(x_t, at.model_t)
        x0, eps = process.to_x0_eps(pred, x_t, of_tokens(at.t))
        return eps - x0

    def step(carry: tuple, ends: tuple):
        return solver.step(velocity, *carry, *(point(*end) for end in ends)), None

    def points(which: int | slice) -> tuple[Grid, Array]:
        return Grid(*(x[which] for x in grid)), jnp.arange(len(grid.t))[which]

    first, ends = point(*points(0)), (points(slice(-1)), points(slice(1, None)))
    z = jnp.asarray(x) / levels(first.t)[1]
    (z, _), _ = jax.lax.scan(step, (z, solver.start(z, first)), ends)
    z = jnp.where(condition_BL1, batch.latents, z)
    return jnp.where((ids_BL == 0)[:, :, None], 0.0, z)


def _solver_noise(
    key: Key[jax.Array, ""], number: Int[Array, ""], batch: PackedBatch, patch_dim: int
) -> Float[Array, "b l p"]:
    """Returns the noise of one grid point, 0 at padding."""
    eps = noise(
        jax.random.fold_in(key, number),
        batch.visit,
        batch.segment_ids,
        batch.token_index,
        patch_dim,
        purpose=Purpose.SOLVER,
    )
    return constrain(eps, "batch", "tokens", None)

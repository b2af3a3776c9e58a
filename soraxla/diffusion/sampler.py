"""The sampler: a loop over the grid, with separate times for every segment.

A whole loop is one program. A caller that shows progress runs the same loop in parts:
`start`, then `advance` from point to point.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.guidance import Denoise
from soraxla.diffusion.process import Process, Purpose, noise, token_times
from soraxla.diffusion.solvers import GridPoint, Solver
from soraxla.diffusion.time_grid import Grid
from soraxla.parallel.mesh import constrain


class SamplerState(NamedTuple):
    """A sampling between two points: x/(α+σ), and the solver's memory."""

    z: Float[Array, "b l p"]
    memory: Any


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
    points = _Points(x, batch, grid, process, seed)
    state = _started(points, solver)
    return _advanced(denoise, points, state, (0, len(grid.t) - 1), solver)[1]


def start(
    x: Float[Array, "b l p"],
    batch: PackedBatch,
    grid: Grid,
    *,
    process: Process,
    solver: Solver,
) -> SamplerState:
    """Returns the state at the grid's first point; arguments as of `sample`."""
    return _started(_Points(x, batch, grid, process, 0), solver)


def advance(
    denoise: Denoise,
    x: Float[Array, "b l p"],
    batch: PackedBatch,
    grid: Grid,
    state: SamplerState,
    ends: tuple[Int[Array, ""] | int, Int[Array, ""] | int],
    *,
    process: Process,
    solver: Solver,
    seed: int | Key[jax.Array, ""] = 0,
) -> tuple[SamplerState, Float[Array, "b l p"]]:
    """Returns (state, latents) at a later point; at the last, those of `sample`.

    Args:
        state: at the first of `ends`, the numbers of two points.
    """
    points = _Points(x, batch, grid, process, seed)
    return _advanced(denoise, points, state, ends, solver)


class _Points:
    """The points of a grid for the tokens of a batch."""

    def __init__(
        self,
        x: Array,
        batch: PackedBatch,
        grid: Grid,
        process: Process,
        seed: int | Key[jax.Array, ""],
    ):
        key = jax.random.key(seed) if isinstance(seed, int) else seed
        self._key = jax.random.fold_in(key, int(Purpose.SOLVER))
        self._grid = jax.tree.map(jnp.asarray, grid)
        self.x, self.batch, self.process = jnp.asarray(x), batch, process
        self.ids_BL = jnp.asarray(batch.segment_ids)
        self.condition_BL1 = jnp.asarray(batch.condition_mask)[:, :, None]

    def __getitem__(self, number: Int[Array, ""] | int) -> GridPoint:
        t_BS, model_t_BS = (
            jnp.minimum(x[number], self.process.max_time) for x in self._grid
        )
        noise_here = partial(
            _solver_noise, self._key, number, self.batch, self.x.shape[-1]
        )
        return GridPoint(
            s=self.levels(t_BS)[0], t=t_BS, model_t=model_t_BS, noise=noise_here
        )

    def of_tokens(self, t_BS: Array) -> Array:
        # Padding takes the first segment's level, since level 0 means the end.
        return token_times(t_BS, jnp.maximum(self.ids_BL, 1))

    def levels(self, t_BS: Array) -> tuple[Array, Array]:
        """Returns s = σ/(α+σ), and α+σ."""
        alpha, sigma = self.process.levels(self.of_tokens(t_BS))
        return sigma / (alpha + sigma), alpha + sigma


def _started(points: _Points, solver: Solver) -> SamplerState:
    first = points[0]
    z = points.x / points.levels(first.t)[1]
    return SamplerState(z=z, memory=solver.start(z, first))


def _advanced(
    denoise: Denoise, points: _Points, state: SamplerState, ends: tuple, solver: Solver
) -> tuple[SamplerState, Array]:
    def velocity(z: Array, at: GridPoint) -> Array:
        x_t = jnp.where(points.condition_BL1, points.x, z * points.levels(at.t)[1])
        pred = denoise(x_t, at.model_t)
        x0, eps = points.process.to_x0_eps(pred, x_t, points.of_tokens(at.t))
        return eps - x0

    def step(number: Array, state: SamplerState) -> SamplerState:
        made = solver.step(velocity, *state, points[number], points[number + 1])
        return SamplerState(*made)

    state = jax.lax.fori_loop(ends[0], ends[1], step, state)
    clean = jnp.where(points.condition_BL1, points.batch.latents, state.z)
    return state, jnp.where((points.ids_BL == 0)[:, :, None], 0.0, clean)


def _solver_noise(
    key: Key[jax.Array, ""],
    number: Int[Array, ""] | int,
    batch: PackedBatch,
    patch_dim: int,
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

"""Sampling of packed rows, step by step, so that its progress can be shown."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float, Int, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.guidance import Guidance, Unconditional, guided
from soraxla.diffusion.process import Process, Purpose, noise, token_times
from soraxla.diffusion.sampler import SamplerState, advance, start
from soraxla.diffusion.solvers import SOLVERS
from soraxla.diffusion.time_grid import Grid
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.parallel.compiler import jit
from soraxla.parallel.mesh import PACKED_AXES, constrain, partition_spec, put_whole

# Returns the latents of (params, batches, grid, key, condition_t, told).
Sampler = Callable[..., Float[np.ndarray, "b l p"]]


def sampler(
    model: DiTConfig, process: Process, solver: str, guidance: Guidance
) -> Sampler:
    """Returns the whole sampler.

    Generated tokens start at the grid's first point, from `batch.latents`, which are 0
    without a start; the network sees condition tokens at time `condition_t`. `told` is
    called after each step.
    """
    begin = functools.partial(start, process=process, solver=SOLVERS[solver])

    def sampled(
        params: PyTree,
        batches: tuple[PackedBatch, ...],
        grid: Grid,
        key: Any,
        condition_t: np.float32,
        told: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        blank = jax.eval_shape(begin, batches[0].latents, batches[0], grid)
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), blank)
        sharding = state_sharding(batches[0], jax.sharding.get_mesh())
        run = steps_program(model, process, solver, guidance, sharding)
        state = jax.device_put(state, sharding)
        batches = tuple(put_whole(batch, PACKED_AXES) for batch in batches)
        inputs, latents = (params, batches, grid, key, condition_t), None
        for step in range(len(grid.t) - 1):
            # Devices compute the step before while this one is dispatched.
            state, following = run(*inputs, state, np.int32(step), np.int32(step + 1))
            if latents is not None:
                jax.block_until_ready(latents)
                told()
            latents = following
        made = np.asarray(latents)
        told()
        return made

    return sampled


def state_sharding(batch: PackedBatch, mesh: Mesh) -> NamedSharding | None:
    """Returns the sharding of every array of a state, (b l _); None without a mesh."""
    if mesh.empty:
        return None
    spec = partition_spec(batch.latents.shape, ("batch", "tokens", None), mesh)
    return NamedSharding(mesh, spec)


@functools.lru_cache(maxsize=8)
def steps_program(
    model: DiTConfig,
    process: Process,
    solver: str,
    guidance: Guidance,
    sharding: NamedSharding | None,
) -> Any:
    """Returns some steps of `sampler`, one compiled function of all data.

    It returns the state at the grid's point `last`, and the latents there, from the
    state at the point `first`; at point 0 any state will do.

    Args:
        sharding: of the arrays of a state, which one call hands to the next.
    """

    def run(
        params: PyTree,
        batches: tuple[PackedBatch, ...],
        grid: Grid,
        key: Any,
        condition_t: Float[Array, ""],
        state: SamplerState,
        first: Int[Array, ""],
        last: Int[Array, ""],
    ) -> tuple[SamplerState, Array]:
        batch = batches[0]
        eps = _noise(key, batch)

        def corrupted(t_BS: Array, condition_t: Array | None = None) -> Array:
            t_BL = token_times(t_BS, batch.segment_ids)
            if condition_t is not None:
                t_BL = jnp.where(batch.condition_mask, condition_t, t_BL)
            return process.corrupt(batch.latents, eps, t_BL)

        def unconditional_input(x: Array, t_BS: Array) -> Array:
            return jnp.where(batch.condition_mask[:, :, None], corrupted(t_BS), x)

        negative = batches[1] if len(batches) > 1 else None
        unconditional = (
            Unconditional(batches[2], unconditional_input) if len(batches) > 2 else None
        )
        denoise = guided(
            functools.partial(dit.denoiser, params, model, condition_t=condition_t),
            batch,
            negative,
            unconditional,
            guidance=guidance,
        )
        x = corrupted(jnp.minimum(grid.t[0], process.max_time), condition_t)
        chosen = {"process": process, "solver": SOLVERS[solver]}
        begun = start(x, batch, grid, **chosen)
        state = jax.tree.map(functools.partial(jnp.where, first == 0), begun, state)
        state, x = advance(
            denoise, x, batch, grid, state, (first, last), seed=key, **chosen
        )
        return state, constrain(x, None, None, None)  # replicated on every host

    return jit(run, donate_argnums=5, out_shardings=(sharding, None))


def _noise(key: Any, batch: PackedBatch) -> Array:
    """Returns the noise that sampling starts from."""
    eps = noise(
        key,
        batch.visit,
        batch.segment_ids,
        batch.token_index,
        batch.latents.shape[-1],
        purpose=Purpose.SAMPLE,
    )
    return constrain(eps, "batch", "tokens", None)

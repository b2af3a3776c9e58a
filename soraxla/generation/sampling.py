"""Sampling of packed rows, step by step, so that its progress can be shown."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float, Int, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.guidance import Guidance, Unconditional, guided, guided_rows
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


class Begun(NamedTuple):
    """The inputs of every step that no step changes, computed once."""

    x: Float[Array, "b l p"]  # the tokens at the grid's first point
    eps: Float[Array, "b l p"] | None  # only rows without condition tokens read it
    text: dit.Text


class Programs(NamedTuple):
    """The two compiled functions of a sampler.

    `begin` takes (params, batches, grid, key, condition_t), and returns a `Begun` and
    the state at the grid's first point. `step` takes (params, batches, grid, key,
    condition_t, begun, state, first, last), and returns the state at the point `last`
    and the latents there, from the state at the point `first`.
    """

    begin: Any
    step: Any


def sampler(
    model: DiTConfig, process: Process, solver: str, guidance: Guidance
) -> Sampler:
    """Returns the whole sampler.

    Generated tokens start at the grid's first point, from `batch.latents`, which are 0
    without a start; the network sees condition tokens at time `condition_t`. `told` is
    called after each step.
    """

    def sampled(
        params: PyTree,
        batches: tuple[PackedBatch, ...],
        grid: Grid,
        key: Any,
        condition_t: np.float32,
        told: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        sharding = state_sharding(batches[0], jax.sharding.get_mesh())
        begin, step = programs(model, process, solver, guidance, sharding)
        batches = tuple(put_whole(batch, PACKED_AXES) for batch in batches)
        inputs, latents = (params, batches, grid, key, condition_t), None
        begun, state = begin(*inputs)
        for number in range(len(grid.t) - 1):
            # Devices compute the step before while this one is dispatched.
            ends = np.int32(number), np.int32(number + 1)
            state, following = step(*inputs, begun, state, *ends)
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
def programs(
    model: DiTConfig,
    process: Process,
    solver: str,
    guidance: Guidance,
    sharding: NamedSharding | None,
) -> Programs:
    """Returns the programs of `sampler`, compiled functions of all data.

    Args:
        sharding: of the arrays of a state, which one call hands to the next.
    """
    chosen = {"process": process, "solver": SOLVERS[solver]}
    settings = {"model": model, "guidance": guidance, "chosen": chosen}
    return Programs(
        jit(functools.partial(_begin, **settings), out_shardings=(None, sharding)),
        jit(
            functools.partial(_step, **settings),
            donate_argnums=6,
            out_shardings=(sharding, None),
        ),
    )


def _begin(
    params: PyTree,
    batches: tuple[PackedBatch, ...],
    grid: Grid,
    key: Any,
    condition_t: Float[Array, ""],
    *,
    model: DiTConfig,
    guidance: Guidance,
    chosen: Mapping[str, Any],
) -> tuple[Begun, SamplerState]:
    batch, process = batches[0], chosen["process"]
    eps = _noise(key, batch)
    t_BS = jnp.minimum(grid.t[0], process.max_time)
    x = _corrupted(process, batch, eps, t_BS, condition_t)
    text = dit.encode_text(params, model, guided_rows(*batches, guidance=guidance))
    begun = Begun(x, eps if len(batches) > 2 else None, text)
    return begun, start(x, batch, grid, **chosen)


def _step(
    params: PyTree,
    batches: tuple[PackedBatch, ...],
    grid: Grid,
    key: Any,
    condition_t: Float[Array, ""],
    begun: Begun,
    state: SamplerState,
    first: Int[Array, ""],
    last: Int[Array, ""],
    *,
    model: DiTConfig,
    guidance: Guidance,
    chosen: Mapping[str, Any],
) -> tuple[SamplerState, Array]:
    batch, *others = batches

    def noised(x: Array, t_BS: Array) -> Array:
        assert begun.eps is not None  # since there are rows without condition tokens
        corrupted = _corrupted(chosen["process"], batch, begun.eps, t_BS)
        return jnp.where(batch.condition_mask[:, :, None], corrupted, x)

    denoise = guided(
        functools.partial(
            dit.denoiser, params, model, condition_t=condition_t, text=begun.text
        ),
        batch,
        others[0] if others else None,
        Unconditional(others[1], noised) if len(others) > 1 else None,
        guidance=guidance,
    )
    ends = first, last
    state, x = advance(denoise, begun.x, batch, grid, state, ends, seed=key, **chosen)
    return state, constrain(x, None, None, None)  # replicated on every host


def _corrupted(
    process: Process,
    batch: PackedBatch,
    eps: Array,
    t_BS: Array,
    condition_t: Array | None = None,
) -> Array:
    """Returns noised latents; condition tokens at their own time, if there is one."""
    t_BL = token_times(t_BS, batch.segment_ids)
    if condition_t is not None:
        t_BL = jnp.where(batch.condition_mask, condition_t, t_BL)
    return process.corrupt(batch.latents, eps, t_BL)


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

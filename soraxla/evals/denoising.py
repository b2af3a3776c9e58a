"""Denoising errors of fixed triples of sample, time and noise."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.noise_schedule import shift_time
from soraxla.diffusion.process import Process, Purpose, noise, token_times
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.packing.bin_packing import Visit, fewest_rows
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.parallel.compiler import jit
from soraxla.parallel.mesh import (
    MESH_AXES,
    PACKED_AXES,
    axis_size,
    constrain,
    host_rows,
    put_rows,
)

TRIPLES = 64


class Triple(NamedTuple):
    """A clip at a time t; its place in a list of triples keys its noise."""

    segment: Segment
    t: float


def denoising_ratio(
    params: PyTree,
    model: DiTConfig,
    process: Process,
    segments: Sequence[Segment],
    *,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> float:
    """Returns Σ|prediction − target|² / Σ|target|² over 64 triples; predicting zero: 1.

    Triple i is sample i mod N at u = (i + ½)/64 in the order of a fixed shuffle,
    shifted as in training.

    Args:
        mesh: as in `denoising_errors`.
    """
    order = np.random.default_rng(0).permutation(TRIPLES)
    chosen = [segments[i % len(segments)] for i in range(TRIPLES)]
    u = ((order + 0.5) / TRIPLES).astype(np.float32)
    times = shift_time(u, np.array([s.shift for s in chosen], np.float32))
    triples = [Triple(s, float(t)) for s, t in zip(chosen, times, strict=True)]
    length = 128 * -(-max(len(segment.tokens) for segment in chosen) // 128)
    config = PackConfig(row_length=max(1024, length), text_length=512, max_segments=16)
    errors, scales = denoising_errors(
        params, model, process, triples, config, seed=seed, mesh=mesh
    )
    return float(errors.sum() / scales.sum())


def denoising_errors(
    params: PyTree,
    model: DiTConfig,
    process: Process,
    triples: Sequence[Triple],
    config: PackConfig,
    *,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns the means of |prediction − target|² and of |target|² of every triple.

    Every clip counts the same, whatever its length. Triple i has the noise of
    (seed, Purpose.EVAL, i), which no training sees. Condition tokens are clean, and
    only the others count.

    Args:
        config: the budgets of a row.
        mesh: the mesh that is set; every device along its batch axes computes one row
            at a time. None computes on the device of `params`.
    """
    visits = [
        Visit(i, i, len(segment.tokens), len(segment.text), 0, True)
        for i, (segment, _) in enumerate(triples)
    ]
    rows = fewest_rows(visits, config)
    size = 1 if mesh is None else axis_size(mesh, MESH_AXES["batch"])
    own = [0] if mesh is None else host_rows(size, mesh)
    run = _compiled(model, process, seed)
    found = np.zeros((2, len(triples)))
    for first in range(0, len(rows), size):
        chosen = rows[first : first + size]
        filled = [*chosen, *[rows[0]] * (size - len(chosen))]
        batch, t_BS = _packed([filled[i] for i in own], triples, config)
        if mesh is not None:
            batch, t_BS = put_rows(
                (batch, t_BS), axes=(PACKED_AXES, ("batch", None)), mesh=mesh
            )
        sums = np.asarray(run(params, batch, t_BS))
        for row, values in zip(chosen, sums.swapaxes(0, 1)[: len(chosen)], strict=True):
            found[:, [visit.number for visit in row]] = values[:, : len(row)]
    return found[0], found[1]


def _packed(
    rows: Sequence[Sequence[Visit]], triples: Sequence[Triple], config: PackConfig
) -> tuple[PackedBatch, Float[np.ndarray, "b s"]]:
    t_BS = np.full((len(rows), config.max_segments), 0.5, np.float32)
    for place, row in enumerate(rows):
        t_BS[place, : len(row)] = [triples[visit.number].t for visit in row]
    segments = [
        [replace(triples[v.number].segment, visit=v.number) for v in row]
        for row in rows
    ]
    return pack(segments, config), t_BS


@functools.lru_cache(maxsize=4)
def _compiled(model: DiTConfig, process: Process, seed: int):
    return jit(functools.partial(_errors, model=model, process=process, seed=seed))


def _errors(
    params: PyTree,
    batch: PackedBatch,
    t_BS: Float[Array, "b s"],
    *,
    model: DiTConfig,
    process: Process,
    seed: int,
) -> Float[Array, "2 b s"]:
    """Returns mean squares of each clip's error and target."""
    t_BS = jnp.minimum(jnp.asarray(t_BS), process.max_time)
    ids = jnp.asarray(batch.segment_ids)
    width = batch.latents.shape[-1]
    eps = noise(seed, batch.visit, ids, batch.token_index, width, purpose=Purpose.EVAL)
    eps = constrain(eps, "batch", "tokens", None)
    generated = ~jnp.asarray(batch.condition_mask)
    t_BL = jnp.where(generated, token_times(t_BS, ids), 0.0)
    x0 = jnp.asarray(batch.latents, jnp.float32)
    x = process.corrupt(x0, eps, t_BL)
    target = process.target(x0, eps, t_BL)
    pred = dit.apply(params, model, x, t_BS, batch)
    one_hot = jax.nn.one_hot(ids - 1, batch.visit.shape[1]) * generated[..., None]
    tokens = jnp.maximum(one_hot.sum(axis=1), 1.0)

    def per_clip(square_BLP: Array) -> Array:
        return jnp.einsum("bl,bls->bs", square_BLP.mean(axis=-1), one_hot) / tokens

    means = jnp.stack([per_clip((pred - target) ** 2), per_clip(target**2)])
    return constrain(means, None, None, None)  # all of it to every host

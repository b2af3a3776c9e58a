"""Denoising error on a fixed set of (sample, time, noise), against predicting zero."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.noise_schedule import shift_time
from soraxla.diffusion.process import Process, Purpose, noise, token_times
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.packing.bin_packing import Visit, fewest_rows
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.parallel.compiler import jit

TRIPLES = 64


def denoising_ratio(
    params: PyTree,
    model: DiTConfig,
    process: Process,
    segments: Sequence[Segment],
    *,
    seed: int = 0,
) -> float:
    """Σ|prediction − target|² / Σ|target|² over 64 triples; 1 is predicting zero.

    Triple i is sample i mod N at u = (i + ½)/64 in the order of a fixed shuffle,
    shifted as in training, with the evaluation noise of draw i.
    """
    order = np.random.default_rng(0).permutation(TRIPLES)
    chosen = [i % len(segments) for i in range(TRIPLES)]
    visits = [
        Visit(i, k, len(segments[k].tokens), len(segments[k].text), 0, True)
        for i, k in enumerate(chosen)
    ]
    length = 128 * -(-max(visit.tokens for visit in visits) // 128)
    spec = PackConfig(row_length=max(1024, length), text_length=512, max_segments=16)
    run = jit(functools.partial(_errors, model=model, process=process, seed=seed))
    error, scale = 0.0, 0.0
    for row in fewest_rows(visits, spec):
        chosen_row = [replace(segments[d.sample], visit=d.number) for d in row]
        batch = pack([chosen_row], spec)
        u_BS = np.full((1, spec.max_segments), 0.5, np.float32)
        u_BS[0, : len(row)] = [(order[d.number] + 0.5) / TRIPLES for d in row]
        row_error, row_scale = run(params, batch, u_BS)
        error, scale = error + float(row_error), scale + float(row_scale)
    return error / scale


def _errors(
    params: PyTree,
    batch: PackedBatch,
    u_BS: Float[Array, "b s"],
    *,
    model: DiTConfig,
    process: Process,
    seed: int,
) -> tuple[Array, Array]:
    """Each clip counts the same, whatever its length."""
    t_BS = jnp.minimum(shift_time(jnp.asarray(u_BS), batch.shift), process.max_time)
    ids = jnp.asarray(batch.segment_ids)
    width = batch.latents.shape[-1]
    eps = noise(seed, batch.visit, ids, batch.token_index, width, purpose=Purpose.EVAL)
    t_BL = token_times(t_BS, ids)
    x = process.corrupt(batch.latents, eps, t_BL)
    target = process.target(batch.latents, eps, t_BL)
    pred = dit.apply(params, model, x, t_BS, batch)
    one_hot = jax.nn.one_hot(ids - 1, batch.visit.shape[1])
    tokens = jnp.maximum(one_hot.sum(axis=1), 1.0)

    def per_clip(square_BLP: Array) -> Array:
        means = jnp.einsum("bl,bls->bs", square_BLP.mean(axis=-1), one_hot) / tokens
        return means.sum()

    return per_clip((pred - target) ** 2), per_clip(target**2)

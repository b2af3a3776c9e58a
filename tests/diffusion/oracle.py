"""Gaussian data, the network that knows them, and the sampler of its predictions."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.types import PackedBatch
from soraxla.diffusion.process import token_times
from soraxla.diffusion.sampler import sample
from soraxla.diffusion.solvers import SOLVERS
from tests.tiny import quick

SOLVED = [name for name in SOLVERS if name != "ddim"]  # which is Euler's
ODE = [name for name in SOLVED if name != "euler-ancestral"]


def solvers(*names):
    return pytest.mark.parametrize("solver", [SOLVERS[n] for n in names], ids=names)


def row(*tokens, shift, length=None, condition_mask=()):
    """One row of segments of so many tokens; known tokens are 5."""
    ids = np.repeat(np.arange(1, len(tokens) + 1), tokens).astype(np.int32)
    index = np.concatenate([np.arange(n, dtype=np.int32) for n in tokens])
    padding = (0, (length or len(ids)) - len(ids))
    ids, index = np.pad(ids, padding)[None], np.pad(index, padding)[None]
    zeros = np.zeros((*ids.shape, 1), np.float32)
    return PackedBatch(
        latents=np.full((*ids.shape, 2), 5.0, np.float32),
        segment_ids=ids,
        token_index=index,
        positions=np.zeros((*ids.shape, 3), np.float32),
        condition_mask=np.isin(np.arange(ids.shape[1]), condition_mask)[None],
        controls=np.zeros((*ids.shape, 0), np.float32),
        features=np.zeros((*ids.shape, 0), np.float32),
        text=zeros,
        text_segment_ids=ids,
        visit=np.arange(len(tokens), dtype=np.uint32)[None],
        shift=np.array([shift], np.float32),
    )


# Every token is one sample of N(MEAN, COVARIANCE): one wide and one narrow direction.
MEAN = np.array([1.0, -0.5], np.float32)
VARIANCES, AXES = np.array([1.6, 0.3]), np.array([[0.8, -0.6], [0.6, 0.8]])
COVARIANCE = AXES @ np.diag(VARIANCES) @ AXES.T


def oracle(process, batch):
    """The perfect network: E[x0|x] and E[ε|x] of the Gaussian, as a prediction."""
    axes = jnp.asarray(AXES, jnp.float32)

    def denoise(x, t_BS):
        t_BL = token_times(t_BS, batch.segment_ids)
        alpha, sigma = process.levels(t_BL)
        along = (x - alpha * MEAN[None, None, :]) @ axes
        variances = jnp.asarray(VARIANCES, jnp.float32)[None, None, :]
        along = along / (alpha**2 * variances + sigma**2)
        x0 = MEAN[None, None, :] + (alpha * along * variances) @ axes.T
        return process.target(x0, (sigma * along) @ axes.T, t_BL)

    return denoise


@functools.cache
def sampler(process, solver, seed=0):
    """The compiled sampler of the oracle's predictions, of noise, batch and grid."""
    return quick(
        lambda noise, batch, grid: sample(
            oracle(process, batch),
            noise,
            batch,
            grid,
            process=process,
            solver=solver,
            seed=seed,
        )
    )


def run(process, solver, steps, batch, noise, *, exact_times=True, seed=0):
    """Compiles the steps as a loop, with as little effort as possible.

    The network receives the exact time of its latents, which UniPC's grid rounds.
    """
    made = (
        sampler if isinstance(seed, int) else sampler.__wrapped__
    )  # keys have no hash
    grid = solver.grid(steps, batch.shift)
    grid = grid._replace(model_t=grid.t) if exact_times else grid
    return np.asarray(made(process, solver, seed)(noise, batch, grid))

"""WanEuler and UniPC step by step against diffusers' schedulers (`golden/`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.types import PackedBatch
from soraxla.diffusion.process import Process
from soraxla.diffusion.sampler import sample
from soraxla.diffusion.solvers import UniPC, WanEuler
from tests.golden import make_solvers as golden
from tests.marks import slow
from tests.tiny import quick

SOLVERS = {"unipc": UniPC(), "wan-euler": WanEuler()}
SHIFT = np.array([golden.SHIFTS], np.float32)


@pytest.fixture(scope="module")
def arrays():
    """name, steps, what → (steps or one more, 3 shifts, …)."""
    with np.load(golden.FILE) as file:
        kept = dict(file)

    def get(name, steps, what):
        keys = [f"{name}/{steps}/{shift:g}/{what}" for shift in golden.SHIFTS]
        return np.stack([kept[key] for key in keys], axis=1)

    return get


def row():
    """Three segments of one row, each with its own shift, and some padding."""
    ids = np.repeat(np.arange(1, len(golden.SHIFTS) + 1), golden.TOKENS)
    ids = np.pad(ids, (0, 5)).astype(np.int32)[None]
    zeros = np.zeros((*ids.shape, golden.CHANNELS), np.float32)
    return PackedBatch(
        latents=zeros,
        segment_ids=ids,
        token_index=ids,
        positions=zeros,
        condition_mask=np.zeros(ids.shape, bool),
        controls=np.zeros((*ids.shape, 0), np.float32),
        features=np.zeros((*ids.shape, 0), np.float32),
        text=zeros,
        text_segment_ids=ids,
        visit=np.zeros(SHIFT.shape, np.uint32),
        shift=SHIFT,
    )


def trajectory(solver, steps, noise):
    """Returns the network's inputs and times at every step, and the result."""
    batch, shown, told = row(), [], []

    def denoise(x, t):
        def keep(x, t):
            shown.append(np.asarray(x))
            told.append(np.asarray(t))

        jax.debug.callback(keep, x, t, ordered=True)
        t_BL1 = t[:, np.maximum(batch.segment_ids[0] - 1, 0)][:, :, None]
        return golden.toy(x, t_BL1, jnp)

    grid = solver.grid(steps, batch.shift)
    out = quick(
        lambda x, grid: sample(
            denoise, x, batch, grid, process=Process(), solver=solver
        )
    )(noise, grid)
    jax.effects_barrier()
    return np.stack([*shown, np.asarray(out)]), np.stack(told)


@pytest.mark.parametrize("steps", golden.STEPS)
@pytest.mark.parametrize("name", SOLVERS)
def test_levels_and_times_are_diffusers_own(arrays, name, steps):
    grid = SOLVERS[name].grid(steps, SHIFT)
    sigmas, times = arrays(name, steps, "sigmas"), arrays(name, steps, "times")
    np.testing.assert_allclose(grid.t[:, 0], sigmas, rtol=0, atol=3e-8)
    np.testing.assert_allclose(grid.model_t[:-1, 0], times / 1000.0, rtol=0, atol=6e-8)


@pytest.mark.parametrize("steps", [10, *slow(*(n for n in golden.STEPS if n != 10))])
@pytest.mark.parametrize("name", SOLVERS)
def test_every_step_is_diffusers_own(arrays, name, steps):
    """One packed row, three shifts."""
    expected = arrays(name, steps, "samples")
    noise = expected[0].reshape(1, -1, golden.CHANNELS)
    noise = np.pad(noise, ((0, 0), (0, 5), (0, 0)), constant_values=1.0)
    samples, told = trajectory(SOLVERS[name], steps, noise)
    times = arrays(name, steps, "times")
    np.testing.assert_allclose(told[:, 0], times / 1000.0, rtol=0, atol=6e-8)
    assert np.all(np.isfinite(samples))  # padding too, which the network sees
    own = samples[:, 0, :-5].reshape(expected.shape)
    # Both are float32; 8e-7 at 50 steps of UniPC was seen, 4e-7 of Euler.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(own, expected, rtol=0, atol=2e-6 * scale)

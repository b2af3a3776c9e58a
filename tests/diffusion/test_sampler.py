"""The sampler against exact answers: Gaussian data, and the same loop in NumPy."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.diffusion.noise_schedule import SCHEDULES
from soraxla.diffusion.process import PREDICTIONS, Process, token_times
from soraxla.diffusion.sampler import advance, sample, start
from soraxla.diffusion.solvers import SOLVERS, Euler, Heun, UniPC
from soraxla.diffusion.time_grid import Grid
from tests.diffusion.oracle import (
    AXES,
    COVARIANCE,
    MEAN,
    ODE,
    SOLVED,
    VARIANCES,
    oracle,
    row,
    run,
    sampler,
    solvers,
)
from tests.marks import slow
from tests.tiny import quick

# A solver with a memory, and one with noise.
several = pytest.mark.parametrize(
    "solver",
    [
        pytest.param(
            SOLVERS[name],
            id=name,
            marks=[] if name in ("unipc", "euler-ancestral") else [pytest.mark.slow],
        )
        for name in SOLVED
    ],
)


def on_processes(*names, settings, euler):
    """Every solver with every process; fast are all solvers with the first, and Euler's
    with those that `euler` names."""
    cases = list(itertools.product(*settings.values()))
    fast = {(name, cases[0]) for name in names} | {("euler", case) for case in euler}
    return pytest.mark.parametrize(
        ("solver", *settings),
        [
            pytest.param(
                SOLVERS[name],
                *case,
                id="-".join((name, *case)),
                marks=[] if (name, case) in fast else [pytest.mark.slow],
            )
            for name in names
            for case in cases
        ],
    )


def exact(process, noise):
    """The ODE solved on paper from (noise, t = max_time), float64.

    Along an axis of variance λ, x(t) = αμ + √(α²λ + σ²)·c with c constant.
    """
    alpha, sigma = (
        float(level[0, 0, 0])
        for level in process.levels(np.array([[process.max_time]], np.float32))
    )
    start = np.sqrt(alpha**2 * VARIANCES + sigma**2)
    along = (noise.astype(np.float64) - alpha * MEAN) @ AXES
    return MEAN + (along / start * np.sqrt(VARIANCES)) @ AXES.T


def discretisation(process, solver, steps, shift):
    """Bound on the covariance's error: local errors of √((1−s)²λ + s²) summed.

    Relative to the curve c, an Euler step errs by ½ds²·c''/c = ½ds²·λ/c⁴; one of one
    order more, by about ds/c of that. Heun's and UniPC's last steps are Euler's, and
    UniPC's first.
    """
    grid = solver.grid(steps, np.array([[shift]], np.float32))
    t = np.minimum(grid.t[None, :, 0, 0], process.max_time)
    alpha, sigma = (np.asarray(x)[0, :, 0].astype(float) for x in process.levels(t))
    s = sigma / (alpha + sigma)
    ds, worst = -np.diff(s), 0.0
    for variance in VARIANCES:
        c = np.sqrt((1 - s) ** 2 * variance + s**2)
        c = np.minimum(c[:-1], c[1:])
        local = 0.5 * ds**2 * variance / c**4
        if isinstance(solver, Heun | UniPC):
            second = slice(isinstance(solver, UniPC), -1)
            local[second] *= (ds / c)[second]
        worst = max(worst, 2 * variance * local.sum())
    return worst


def moments(images):
    """Mean and covariance of N(0, I) under the affine map of 0 and the unit vectors."""
    return images[0], (images[1:] - images[0]).T @ (images[1:] - images[0])


@on_processes(
    *ODE,
    settings={"schedule": SCHEDULES, "prediction": PREDICTIONS},
    euler=[],
)
def test_gaussian_data_are_sampled_to_their_mean_and_covariance(
    solver, schedule, prediction
):
    """Twice: of 4,000 samples, within 4 standard errors, and of the sampler's own map.

    For Gaussian data that map is affine, so three points give it, and its moments are
    free of sampling error. Two biases are left: noise is N(0, I) though a schedule may
    end at α = 0.0067 (0.005 for ε-prediction) instead of 0, and the steps are finite.
    """
    process = Process(schedule=schedule, prediction=prediction)
    steps = 200 if isinstance(solver, Euler) else 60
    n, shifts = 4003, [1.0, 3.0]
    noise = np.random.default_rng(0).normal(size=(1, 2 * n, 2)).astype(np.float32)
    for first in (0, n):
        noise[0, first : first + 3] = [[0, 0], [1, 0], [0, 1]]
    batch = row(n, n, shift=shifts)
    out = run(process, solver, steps, batch, noise)[0].astype(np.float64)

    mean, covariance = moments(exact(process, noise[0, :3]))
    np.testing.assert_allclose(mean, MEAN, rtol=0, atol=0.0067 * np.abs(MEAN).max())
    np.testing.assert_allclose(covariance, COVARIANCE, rtol=0, atol=0.01 * 1.6)
    deviation = np.sqrt(np.diag(COVARIANCE))
    spread = np.sqrt(np.outer(deviation**2, deviation**2) + COVARIANCE**2)
    for samples, shift in zip((out[:n], out[n:]), shifts, strict=True):
        bias = discretisation(process, solver, steps, shift)
        assert bias < 0.06
        own_mean, own_covariance = moments(samples[:3])
        assert np.all(np.abs(own_mean - mean) < 5e-4)
        assert np.all(np.abs(own_covariance - covariance) < bias)
        error = np.abs(samples[3:].mean(0) - mean)
        assert np.all(error < 5e-4 + 4 * deviation / math.sqrt(n))
        error = np.abs(np.cov(samples[3:].T) - covariance)
        assert np.all(error < bias + 4 * spread / math.sqrt(n))


def _error(process, solver, steps, **options):
    """Largest distance from the exact end of the ODE over a fan of starts."""
    noise = np.array([[0, 0], [2, 0], [0, 2], [-1, 1]], np.float32)[None]
    out = run(process, solver, steps, row(4, shift=[1.0]), noise, **options)
    return np.abs(out - exact(process, noise)).max()


@pytest.mark.parametrize("name", ["heun", *slow("euler", "wan-euler")])
def test_a_solver_converges_with_its_order(name):
    """Twice the steps, half or a quarter of the error, on rectified flow."""
    solver = SOLVERS[name]
    errors = [_error(Process(), solver, steps) for steps in (20, 40, 80)]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    order = 2 if isinstance(solver, Heun) else 1
    np.testing.assert_allclose(ratios, 2.0**order, rtol=0.15)


@pytest.mark.slow
def test_unipc_converges_faster_than_its_order_and_is_ahead_of_heun():
    """Its corrector is of order 3 but where it begins; Heun asks twice a step."""
    errors = [_error(Process(), UniPC(), steps) for steps in (20, 40, 80, 160)]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all(ratios > 4.0) and np.all(ratios < 8.0)
    for steps, error in zip((10, 20, 40), errors, strict=False):
        assert error < 0.6 * _error(Process(), Heun(), steps)


@pytest.mark.slow
def test_what_rounding_the_told_times_costs_unipc():
    """A thousandth of time, at most: never more than a few thousandths of a sample."""
    rounded, exact_times = (
        _error(Process(), UniPC(), 160, exact_times=exact) for exact in (False, True)
    )
    assert exact_times < 1e-4 < 1e-3 < rounded < 4e-3


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["ddpm_cosine", "ddpm_linear"])
def test_heun_is_ahead_on_ddpm_schedules_too(schedule):
    """Near t = 0 σ grows like √t, so that no order in 1/steps holds: but faster."""
    process = Process(schedule=schedule, prediction="v")
    assert _error(process, Heun(), 50) < 0.5 * _error(process, Euler(), 50)
    assert _error(process, Heun(), 100) < 0.7 * _error(process, Heun(), 50)
    assert _error(process, Euler(), 100) < 0.7 * _error(process, Euler(), 50)


def _network(x, t_BS, ids):
    """Not linear, and different at every time and token."""
    t = t_BS[0][np.maximum(ids[0] - 1, 0)][None, :, None]
    return x**2 * 0.3 - t * x + 0.1


@solvers("euler", "heun")
def test_the_scan_is_a_python_loop_of_rectified_flow(solver):
    """x ← x + (t' − t)·v in NumPy, each segment on its own times."""
    batch, steps = row(3, 2, shift=[1.0, 4.0], length=6), 5
    ids, alpha = batch.segment_ids, np.array([[1.0, 4.0]])
    noise = np.random.default_rng(0).normal(size=(1, 6, 2)).astype(np.float32)
    x, grid = noise.astype(np.float64), np.linspace(1, 0, steps + 1)
    for u, u_next in itertools.pairwise(grid):
        t, t_next = (alpha * v / (1 + (alpha - 1) * v) for v in (u, u_next))
        dt = (t_next - t)[0][np.maximum(ids[0] - 1, 0)][None, :, None]
        first = _network(x, t, ids)
        if isinstance(solver, Heun) and u_next > 0:
            first = (first + _network(x + dt * first, t_next, ids)) / 2
        x = x + dt * first
    out = sample(
        lambda x, t: _network(x, t, ids),
        noise,
        batch,
        solver.grid(steps, batch.shift),
        process=Process(),
        solver=solver,
    )
    np.testing.assert_allclose(out[0, :5], x[0, :5], rtol=0, atol=2e-6)
    assert np.all(np.asarray(out)[0, 5:] == 0.0)


@several
def test_a_segment_s_shift_is_its_own(solver):
    noise = np.random.default_rng(0).normal(size=(1, 5, 2)).astype(np.float32)
    one, two = (
        run(Process(), solver, 4, row(3, 2, shift=[1.0, s]), noise) for s in (2, 6)
    )
    np.testing.assert_array_equal(one[0, :3], two[0, :3])
    assert np.all(one[0, 3:] != two[0, 3:])


@several
@pytest.mark.parametrize(
    "schedule",
    [
        "rectified_flow",
        *slow(*(name for name in SCHEDULES if name != "rectified_flow")),
    ],
)
def test_known_tokens_are_seen_as_they_came_and_returned_clean(solver, schedule):
    """As `x` has them, which need not be clean, at all stops."""
    batch = row(4, shift=[1.0], length=5, condition_mask=(1, 2))
    process = Process(schedule=schedule)
    seen = []

    def denoise(x, t):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return oracle(process, batch)(x, t)

    noise = np.full((1, 5, 2), 2.0, np.float32)
    grid = solver.grid(3, batch.shift)
    out = quick(
        lambda x: sample(denoise, x, batch, grid, process=process, solver=solver)
    )(noise)
    jax.effects_barrier()
    # Heun asks twice a step, but once in the last.
    assert len(seen) == (5 if isinstance(solver, Heun) else 3)
    for x, value in [*((x, 2.0) for x in seen), (np.asarray(out), 5.0)]:
        assert np.all(np.isfinite(x)) and np.all(x[0, 1:3] == value)
    assert all(np.all(x[0, (0, 3)] != 2.0) for x in [*seen[1:], out])
    assert np.all(np.asarray(out)[0, 4] == 0.0)


@several
def test_where_nothing_is_known_latents_are_not_read(solver):
    batch = row(3, 2, shift=[1.0, 2.0])
    noise = np.random.default_rng(0).normal(size=(1, 5, 2)).astype(np.float32)
    one, two = (
        run(Process(), solver, 4, batch._replace(latents=latents), noise)
        for latents in (batch.latents, np.full_like(batch.latents, np.nan))
    )
    np.testing.assert_array_equal(one, two)


TO_TRUTH = (
    row(4, shift=[3.0], length=5, condition_mask=(1,)),
    np.random.default_rng(0).normal(size=(3, 1, 5, 2)).astype(np.float32),
)


@functools.cache
def leading_to_truth(solver):
    """The compiled sampler whose network knows the truth, of tokens and a grid."""
    batch, (truth, _, _) = TO_TRUTH

    def denoise(x, t):
        t_BL1 = np.float32(1e-12) + token_times(t, batch.segment_ids)[:, :, None]
        return (x - truth) / t_BL1

    return quick(
        lambda x, grid: sample(
            denoise, x, batch, grid, process=Process(), solver=solver
        )
    )


@pytest.mark.parametrize("name", ["unipc", *slow("euler-ancestral")])
def test_a_sampling_in_parts_is_the_whole_one(name):
    """To the bit; UniPC remembers two points, and ancestral steps draw noise."""
    process, solver, batch = Process(), SOLVERS[name], row(4, shift=[3.0])
    noise = np.random.default_rng(0).normal(size=(1, 4, 2)).astype(np.float32)
    grid, settings = solver.grid(5, batch.shift), {"process": process, "solver": solver}

    @quick
    def part(state, first, last):
        begun = start(noise, batch, grid, **settings)
        state = jax.tree.map(lambda a, b: jnp.where(first == 0, a, b), begun, state)
        return advance(
            oracle(process, batch), noise, batch, grid, state, (first, last), **settings
        )

    state = jax.eval_shape(lambda: start(noise, batch, grid, **settings))
    state = blank = jax.tree.map(lambda leaf: np.ones(leaf.shape, "f"), state)
    for first, last in ((0, 2), (2, 3), (3, 5)):
        state, out = part(state, np.int32(first), np.int32(last))
    _, whole = part(blank, np.int32(0), np.int32(5))
    np.testing.assert_array_equal(out, whole)


@pytest.mark.parametrize("start", [1e-6, 0.4, 1.0])
@several
def test_an_oracle_leads_from_anywhere_to_the_truth(solver, start):
    """From a clip that is noised part of the way to another one, as in SDEdit."""
    batch, (truth, other, eps) = TO_TRUTH
    process, grid = Process(), solver.grid(5, batch.shift, start)
    x = process.corrupt(other, eps, token_times(grid.t[0], batch.segment_ids))
    grid = grid._replace(model_t=grid.t)
    out = leading_to_truth(solver)(x, grid)
    found, expected = np.asarray(out)[0, (0, 2, 3)], truth[0, (0, 2, 3)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    assert np.all(np.asarray(out)[0, 1] == 5.0)


@pytest.mark.parametrize("schedule", ["ddpm_cosine", *slow("ddpm_linear")])
def test_euler_is_ddim(schedule):
    """x' = α'·x0 + σ'·ε in NumPy, of x0 and ε as the network has them (η = 0)."""
    process, batch = Process(schedule=schedule, prediction="eps"), row(3, shift=[2.0])
    noise = np.random.default_rng(0).normal(size=(1, 3, 2)).astype(np.float32)
    out = run(process, SOLVERS["ddim"], 6, batch, noise)
    x, grid = noise, SOLVERS["ddim"].grid(6, batch.shift)
    for t, t_next in itertools.pairwise(np.asarray(grid.t)):
        (alpha, sigma), (alpha_next, sigma_next) = (
            process.levels(token_times(at, batch.segment_ids)) for at in (t, t_next)
        )
        eps = oracle(process, batch)(x, t)
        x = alpha_next * (x - sigma * eps) / alpha + sigma_next * eps
    np.testing.assert_allclose(out, x, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_stops_at_one_level_change_nothing_for_unipc():
    """ε-prediction is not used above t = 0.995: the stops up there are one level."""
    process, batch = Process(prediction="eps"), row(2, shift=[12.0])
    noise = np.array([[[1, -1], [0, 2]]], np.float32)
    grid = UniPC().grid(100, batch.shift)
    above = int(np.sum(grid.t > process.max_time))
    assert above > 3
    shorter = Grid(*(np.asarray(x)[above - 1 :] for x in grid))
    run = sampler(process, UniPC())
    whole, short = (run(noise, batch, g) for g in (grid, shorter))
    assert np.all(np.isfinite(whole))
    np.testing.assert_allclose(whole, short, rtol=0, atol=1e-6)

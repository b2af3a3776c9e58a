"""The solver with noise against DDPM's formulas, on Gaussian data."""

import itertools
import math

import jax
import numpy as np
import pytest

from soraxla.diffusion.process import Process
from soraxla.diffusion.solvers import EulerAncestral
from tests.diffusion.oracle import AXES, COVARIANCE, MEAN, VARIANCES, row, run
from tests.marks import slow


def ddpm(process, grid):
    """Mean and covariance of what x' ~ q(x' | x, x0) leads to, with the oracle's x0."""
    alpha, sigma = (
        x[0, :, 0].astype(float) for x in map(np.asarray, process.levels(grid))
    )
    mean, variance = np.zeros(2), np.ones(2)  # along the axes
    for here, there in itertools.pairwise(zip(alpha, sigma, strict=True)):
        (a, s), (a_next, s_next) = here, there
        gain = a * VARIANCES / (a**2 * VARIANCES + s**2)
        step = a / a_next
        added = s**2 - (step * s_next) ** 2
        of_x, of_x0 = step * s_next**2 / s**2, a_next * added / s**2
        slope = of_x + of_x0 * gain
        mean = slope * mean + of_x0 * (1 - a * gain) * (MEAN @ AXES)
        variance = slope**2 * variance + added * s_next**2 / s**2
    return AXES @ mean, AXES @ np.diag(variance) @ AXES.T


@pytest.mark.parametrize(
    "schedule", ["rectified_flow", *slow("ddpm_linear", "ddpm_cosine")]
)
def test_ancestral_sampling_is_ddpm_s(schedule):
    """Mean and covariance of 8,000 samples are within 4 standard errors of the formula.

    With more steps the formula approaches the data's mean and covariance."""
    process, solver = Process(schedule=schedule, prediction="v"), EulerAncestral()
    n = 8000
    noise = np.random.default_rng(0).normal(size=(1, n, 2)).astype(np.float32)
    batch = row(n, shift=[2.0])

    def expected(steps):
        return ddpm(process, solver.grid(steps, batch.shift).t[None, :, 0, 0])

    few, more, many = (
        np.abs(expected(steps)[1] - COVARIANCE).max() for steps in (5, 50, 500)
    )
    assert many < 0.5 * more < 0.25 * few
    mean, covariance = expected(10)
    out = run(process, solver, 10, batch, noise)[0].astype(np.float64)
    deviation = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(out.mean(0) - mean) < 4 * deviation / math.sqrt(n))
    spread = np.sqrt(np.outer(deviation**2, deviation**2) + covariance**2)
    error = np.abs(np.cov(out.T) - covariance)
    assert np.all(error < 4 * spread / math.sqrt(n))


@pytest.mark.slow
def test_an_ancestor_s_noise_is_of_its_seed_and_its_clip_s():
    """The same at another place in a row, and another for another clip or seed."""
    process, solver = Process(), EulerAncestral()
    shift, noise = [3.0, 3.0], np.zeros((1, 6, 2), np.float32)
    both, alone = row(3, 3, shift=shift), row(3, shift=shift[:1])
    second = alone._replace(visit=both.visit[:, 1:])

    def sampled(batch, seed):
        x = noise[:, : batch.condition_mask.shape[1]]
        return run(process, solver, 4, batch, x, seed=seed)

    first = sampled(both, 0)
    np.testing.assert_allclose(sampled(alone, 0), first[:, :3], rtol=0, atol=1e-6)
    np.testing.assert_allclose(sampled(second, 0), first[:, 3:], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(sampled(both, 0), first)
    key = jax.random.key(0)
    np.testing.assert_array_equal(sampled(both, key), first)
    assert np.all(np.abs(sampled(both, 1) - first) > 1e-4)
    assert np.all(np.abs(first[:, :3] - first[:, 3:]) > 1e-4)

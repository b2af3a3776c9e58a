"""The times at which a solver stops."""

import numpy as np
import pytest

from tests.diffusion.oracle import SOLVED, solvers


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@solvers(*SOLVED)
def test_times_fall_from_noise_to_clean(solver, steps):
    """With any shift, the network's times are within a thousandth of the latents'."""
    t, model_t = solver.grid(steps, np.array([[0.3, 1.0, 12.0]], np.float32))
    assert t.shape == model_t.shape == (steps + 1, 1, 3)
    assert t.dtype == model_t.dtype == np.float32
    assert np.all(np.diff(t, axis=0) < 0)
    assert np.all(t[0] >= 1 - 2e-6) and np.all(t[0] <= 1) and np.all(t[-1] == 0)
    assert np.all(model_t <= t) and np.all(model_t > t - 0.0011)
    np.testing.assert_array_equal(
        solver.grid(steps, np.float32([[12.0]])).t, t[..., 2:]
    )


@pytest.mark.parametrize("start", [1e-4, 0.003, 0.5, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 7])
@solvers(*SOLVED)
def test_times_begin_where_they_are_asked_to(solver, steps, start):
    """At u = start before the shift; a start of 1 is the whole way."""
    shift = np.array([[0.3, 1.0, 12.0]], np.float32)
    t, model_t = solver.grid(steps, shift, start)
    first = shift * start / (1 + (shift - 1) * start)
    np.testing.assert_allclose(t[0], np.minimum(first, 1 - 1e-6), rtol=2e-6)
    assert np.all(np.diff(t, axis=0) <= 0) and np.all(t[-1] == 0)
    assert t.shape == model_t.shape == (steps + 1, 1, 3) and np.all(model_t <= t)
    for one, two in zip(
        solver.grid(steps, shift, 1.0), solver.grid(steps, shift), strict=True
    ):
        np.testing.assert_array_equal(one, two)


@solvers("euler", "heun")
def test_our_own_times_are_even_before_the_shift(solver):
    u = np.linspace(1.0, 0.0, 5)
    t, _ = solver.grid(4, np.array([[1.0, 3.0]], np.float32))
    np.testing.assert_allclose(t[:, 0, 0], u, rtol=0, atol=6e-8)
    np.testing.assert_allclose(t[:, 0, 1], 3 * u / (1 + 2 * u), rtol=0, atol=6e-8)


@solvers(*SOLVED)
def test_a_sampler_takes_at_least_one_step(solver):
    with pytest.raises(ValueError, match="0 sampling steps: expected at least 1"):
        solver.grid(0, np.ones((1, 1), np.float32))

"""Schedules, the time shift and the training times."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from soraxla.diffusion.noise_schedule import (
    ALPHA_MIN,
    DDPMCosine,
    DDPMLinear,
    RectifiedFlow,
    sample_times,
    shift_time,
    time_shift,
)
from soraxla.diffusion.process import Purpose, sample_keys
from tests.tiny import quick

SCHEDULES = [RectifiedFlow(), DDPMLinear(), DDPMCosine()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_schedule_goes_from_data_to_noise(schedule):
    t = np.linspace(0.0, 1.0, 1001, dtype=np.float32)
    alpha, sigma = np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))
    assert (alpha[0], sigma[0]) == (1.0, 0.0)
    assert alpha[-1] <= 0.01 and sigma[-1] >= 0.9999
    assert np.all(np.diff(alpha) <= 0) and np.all(np.diff(sigma) >= 0)
    # Noise rises at once: a flat start would waste steps, a jump would lose x0.
    assert 0 < sigma[1] < 0.05
    latest = schedule.alpha(np.array([schedule.max_eps_time], np.float32))
    assert latest >= ALPHA_MIN * 0.999


@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=lambda s: type(s).__name__)
def test_ddpm_keeps_variance(schedule):
    t = np.linspace(0.0, 1.0, 101, dtype=np.float32)
    total = np.square(schedule.alpha(t)) + np.square(schedule.sigma(t))
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_linear_is_the_limit_of_ddpm_s_thousand_steps():
    """ᾱ of arXiv 2006.11239, β from 1e-4 to 0.02: the limit differs by O(1/1000)."""
    abar = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    t = (np.arange(1000) + 1.0) / 1000
    alpha = DDPMLinear().alpha(t.astype(np.float32))
    np.testing.assert_allclose(np.square(alpha), abar, atol=2e-3)


def test_cosine_is_iddpm_s():
    t = np.linspace(0.0, 0.99, 100)
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha = DDPMCosine().alpha(t.astype(np.float32))
    np.testing.assert_allclose(np.square(alpha), f / f[0], atol=1e-6)


def test_sigma_keeps_its_digits_near_clean():
    """σ(1e-3) against float64; 1 − α² in fp32 would be 1e-3 off."""
    t, at = 1e-3, np.array([1e-3], np.float32)
    linear = np.sqrt(-np.expm1(-(0.1 * t + 0.5 * 19.9 * t**2)))
    np.testing.assert_allclose(DDPMLinear().sigma(at), linear, rtol=1e-5)
    first, angle = (np.pi / 2 * (x + 0.008) / 1.008 for x in (0.0, t))
    cosine = np.sqrt(1.0 - (np.cos(angle) / np.cos(first)) ** 2)
    np.testing.assert_allclose(DDPMCosine().sigma(at), cosine, rtol=1e-4)


def test_shift_keeps_the_ends_and_moves_the_middle_to_noise():
    u = np.linspace(0.0, 1.0, 11, dtype=np.float32)
    np.testing.assert_allclose(shift_time(u, np.ones(11, np.float32)), u, atol=1e-7)
    t = np.asarray(shift_time(u, np.full(11, 3.0, np.float32)))
    assert t[0] == 0.0 and t[-1] == 1.0 and np.all(t[1:-1] > u[1:-1])
    np.testing.assert_allclose(t[5], 0.75, rtol=1e-6)


def test_the_shift_rule():
    size = {"height": 512, "width": 512, "latent_frames": 4}
    assert time_shift("auto", **size) == pytest.approx(4.0)
    assert time_shift("auto", height=64, width=64, latent_frames=1) == 1.0
    assert time_shift("auto", height=8192, width=8192, latent_frames=99) == 12.0
    assert time_shift(3.0, **size) == 3.0
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected 'auto' or a number above 0"):
            time_shift(bad, **size)


@pytest.mark.slow
def test_training_times_follow_the_stated_mixture():
    """Share below u0 is 0.9·Φ(logit u0) + 0.1·u0; 4 standard errors of 40,000 draws."""
    visit = np.arange(40_000, dtype=np.uint32).reshape(4, -1)
    keys, times = sample_keys(0, Purpose.TIME, visit), quick(sample_times)
    u = np.asarray(times(keys, jnp.ones(visit.shape)))
    assert u.min() >= 0.0 and u.max() <= 1.0
    for u0 in (0.02, 0.2, 0.5, 0.8, 0.98):
        normal = float(ndtr(np.log(u0 / (1 - u0))))
        share = 0.9 * normal + 0.1 * u0
        error = 4 * np.sqrt(share * (1 - share) / visit.size)
        assert abs(np.mean(u < u0) - share) < error
    t = times(keys, jnp.full(visit.shape, 2.0))
    np.testing.assert_allclose(t, 2 * u / (1 + u), rtol=1e-5)

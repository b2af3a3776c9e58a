"""Predictions convert into each other; randomness depends only on the visit."""

import itertools

import jax
import jaxtyping
import numpy as np
import pytest

from soraxla.diffusion.noise_schedule import SCHEDULES
from soraxla.diffusion.process import (
    PREDICTIONS,
    Process,
    Purpose,
    noise,
    sample_keys,
    token_times,
)
from soraxla.parallel.mesh import constrain, sampling_mesh
from tests.marks import slow


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    list(itertools.product(SCHEDULES, PREDICTIONS)),
)
def test_a_perfect_prediction_gives_x0_and_noise_back(schedule, prediction):
    """Through every kind, at every time at which that kind tells both.

    Tolerance: fp32 rounding 1e-6 divided by the α or σ of the conversion, whichever it
    divides by; the times stay within [0.01, 0.995].
    """
    process = Process(schedule=schedule, prediction=prediction)
    rng = np.random.default_rng(0)
    t = np.linspace(0.01, 0.995, 40, dtype=np.float32).reshape(2, 20)
    x0, eps = (rng.normal(size=(2, 20, 3)).astype(np.float32) for _ in range(2))
    x = process.corrupt(x0, eps, t)
    got_x0, got_eps = process.to_x0_eps(process.target(x0, eps, t), x, t)
    alpha, sigma = process.levels(t)
    assert np.all(np.abs(got_x0 - x0) < 2e-6 + 2e-6 / alpha)
    assert np.all(np.abs(got_eps - eps) < 2e-6 + 2e-6 / sigma)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_ends_of_time_are_finite(prediction):
    for schedule in SCHEDULES:
        process = Process(schedule=schedule, prediction=prediction)
        t = np.array([[0.0, process.max_time, 1.0]], np.float32)
        x = np.ones((1, 3, 2), np.float32)
        for part in process.to_x0_eps(x, x, t):
            assert np.all(np.isfinite(part))


def test_flow_under_rectified_flow_is_the_velocity_of_the_path():
    process, step = Process(), 1e-2
    rng = np.random.default_rng(0)
    x0, eps = (rng.normal(size=(1, 4, 2)).astype(np.float32) for _ in range(2))
    t = np.array([[0.1, 0.4, 0.6, 0.9]], np.float32)
    change = (process.corrupt(x0, eps, t + step) - process.corrupt(x0, eps, t)) / step
    np.testing.assert_allclose(process.target(x0, eps, t), change, atol=1e-4)


def test_an_error_of_x0_counts_as_the_velocitys_which_it_implies():
    """Down to σ = 0.2, from where on it counts as there; other predictions as it is."""
    rng = np.random.default_rng(0)
    x0, eps = (rng.normal(size=(1, 4, 3)).astype(np.float32) for _ in range(2))
    t = np.array([[0.2, 0.4, 0.7, 1.0]], np.float32)
    flow, clean = Process(), Process(prediction="x0")
    x, wrong = flow.corrupt(x0, eps, t), x0 + np.float32(0.1)
    velocity = (x - wrong) / t[:, :, None]
    expected = np.square(velocity - flow.target(x0, eps, t)).mean(-1)
    got = np.square(wrong - x0).mean(-1) * clean.loss_weight(t)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    late = clean.loss_weight(np.full((1, 1), 0.01, np.float32))
    np.testing.assert_allclose(late, 25.0, rtol=1e-6)
    assert np.all(flow.loss_weight(t) == 1.0)


def test_an_unknown_name_is_refused(monkeypatch):
    """By the process itself, when annotations are not checked, as outside tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="expected one of flow, eps, x0, v"):
        Process(prediction="noise")  # pyright: ignore
    with pytest.raises(ValueError, match="expected one of rectified_flow, ddpm_"):
        Process(schedule="linear")  # pyright: ignore


# Row 1: draws 7, 9; row 2: draws 9, 7, the other way round and further along.
IDS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 0]], np.int32)
INDEX = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 0]], np.int32)
VISIT = np.array([[7, 9], [9, 7]], np.uint32)


draw = jax.jit(noise, static_argnums=(0, 4), static_argnames="purpose")


def test_one_draw_has_the_same_noise_in_any_row_and_place():
    eps = np.asarray(draw(0, VISIT, IDS, INDEX, 4))
    np.testing.assert_array_equal(eps[0, :3], eps[1, 2:5])
    np.testing.assert_array_equal(eps[0, 3:5], eps[1, :2])
    longer = draw(0, VISIT[:1, :1], np.ones((1, 9), np.int32), np.arange(9)[None], 4)
    np.testing.assert_array_equal(eps[0, :3], longer[0, :3])


@pytest.mark.parametrize("patch_dim", [11, *slow(4, 16)])
def test_eight_devices_draw_the_noise_of_one_to_the_bit(patch_dim):
    """Also where a token's numbers fill no whole vector."""
    visit, ids, index = VISIT, *(np.tile(x, 4) for x in (IDS, INDEX))

    def made():
        return jax.jit(
            lambda *x: constrain(noise(0, *x, patch_dim), "batch", "tokens", None)
        )(visit, ids, index)

    one = made()
    with jax.set_mesh(sampling_mesh()):
        many = made()
    assert (len(one.sharding.device_set), len(many.sharding.device_set)) == (1, 8)
    assert many.addressable_shards[0].data.size == many.size // 8
    np.testing.assert_array_equal(many, one)


def test_everything_that_should_matter_to_noise_does():
    """Two draws of one sample, two tokens, two seeds, two purposes: all differ."""
    eps = np.asarray(draw(0, VISIT, IDS, INDEX, 4))
    others = [
        eps[0, 1],
        eps[0, 3],
        draw(1, VISIT, IDS, INDEX, 4)[0, 0],
        draw(0, VISIT, IDS, INDEX, 4, purpose=Purpose.SAMPLE)[0, 0],
    ]
    for other in others:
        assert not np.any(eps[0, 0] == other)


def test_noise_is_standard_normal_and_absent_from_padding():
    ids = np.repeat([1, 2, 0], [700, 300, 24])[None].astype(np.int32)
    index = np.concatenate([np.arange(700), np.arange(300), np.zeros(24, int)])[None]
    visit = np.array([[3, 4_294_967_295]], np.uint32)
    eps = np.asarray(draw(5, visit, ids, index, 16))
    assert eps.dtype == np.float32 and np.all(eps[0, 1000:] == 0.0)
    real, n = eps[0, :1000], 16_000
    assert abs(real.mean()) < 4 / np.sqrt(n)
    assert abs(real.var() - 1.0) < 4 * np.sqrt(2 / n)
    between = np.mean(real[:300] * real[700:1000])
    assert abs(between) < 4 / np.sqrt(300 * 16)


def test_keys_are_those_of_the_seed_s_key():
    by_int = sample_keys(5, Purpose.TIME, VISIT)
    by_key = sample_keys(jax.random.key(5), Purpose.TIME, VISIT)
    np.testing.assert_array_equal(
        jax.random.key_data(by_int), jax.random.key_data(by_key)
    )


def test_tokens_take_their_segment_s_time():
    t = np.array([[0.25, 0.5], [0.75, 1.0]], np.float32)
    np.testing.assert_array_equal(
        token_times(t, IDS),
        [[0.25, 0.25, 0.25, 0.5, 0.5, 0.0], [0.75, 0.75, 1.0, 1.0, 1.0, 0.0]],
    )

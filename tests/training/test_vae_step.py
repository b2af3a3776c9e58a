"""One step of the VAE: the terms of its loss, and what it does not depend on."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.models import vae
from soraxla.models.vae import discriminator
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.statistics import latent_statistics
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_losses.adversarial import Adversarial
from soraxla.training.vae_losses.equivariance import Equivariance
from soraxla.training.vae_losses.losses import VAELosses
from soraxla.training.vae_losses.perceptual import Perceptual
from soraxla.training.vae_step import (
    VAEStepConfig,
    vae_fine_tuned,
    vae_init,
    vae_step,
)
from tests.tiny import guarded, quick, random_like, vae_params
from tests.training.test_vae_losses import discriminator_shapes, tiny_features

VAE = VAEStepConfig(
    model=VAEConfig(
        base_width=4,
        latent_channels=3,
        multipliers=(1,),
        res_blocks=1,
        temporal_down=(),
        dtype="float32",
    ),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=1),
)


@pytest.fixture(scope="module")
def vae_state():
    """Returns the state of `vae_init` without its program, which compiles slowly."""
    params = vae_params(VAE.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "init", lambda key, cfg: params)
        return quick(lambda: vae_init(VAE))()


@pytest.fixture(scope="module")
def train_vae():
    return guarded(functools.partial(vae_step, cfg=VAE))


@pytest.fixture(scope="module")
def windows():
    """Smooth pictures that move, uint8."""
    t, y, x = np.mgrid[0:5, 0:16, 0:16] / 16.0
    waves = [np.sin(6.0 * (x + k * t)) * np.cos(5.0 * y * (k + 1)) for k in range(3)]
    video = np.round(127.5 * (1.0 + np.stack(waves, axis=-1))).astype(np.uint8)
    return {"video": np.stack([video, 255 - video])}


@pytest.mark.slow
def test_the_autoencoder_learns_a_batch(vae_state, train_vae, windows):
    state, seen = vae_state, []
    for _ in range(12):
        state, metrics = train_vae(state, windows)
        seen.append(metrics)
    assert seen[-1]["l1"] < 0.8 * seen[0]["l1"]
    assert seen[-1]["psnr"] > seen[0]["psnr"]
    assert state.skipped == 0
    assert set(metrics) >= {"loss", "l1", "kl", "psnr", "grad_norm"}
    loss = metrics["l1"] + VAE.losses.kl.weight * metrics["kl"]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)


@pytest.mark.slow
def test_posterior_noise_changes_with_the_step(vae_state, windows):
    error = guarded(lambda s, b: vae_step(s, b, cfg=VAE)[1]["l1"])
    later = vae_state._replace(step=jnp.asarray(1, jnp.int32))
    one, same, other = (float(error(s, windows)) for s in (vae_state, vae_state, later))
    assert one == same != other


@pytest.mark.slow
def test_a_fine_tuning_keeps_the_latent_statistics_it_starts_from(
    vae_state, train_vae, windows
):
    """One step moves them by a hundredth of the way, not to those of its windows."""
    fresh = train_vae(vae_state, windows)[0].extra["mean"]
    mean, std = (5.0, -3.0, 1.0), (2.0, 1.0, 0.5)
    start = replace(VAE.model, latent_mean=mean, latent_std=std)
    state = quick(functools.partial(vae_fine_tuned, cfg=VAE, start=start))(
        vae_state.params
    )
    np.testing.assert_allclose(latent_statistics(state.extra), (mean, std), rtol=1e-6)
    after = train_vae(state, windows)[0].extra["mean"]
    expected = 0.99 * np.asarray(mean) + 0.01 * np.asarray(fresh)
    np.testing.assert_allclose(after, expected, rtol=1e-5)


@pytest.mark.slow
def test_latent_statistics_are_means_over_the_steps(vae_state, train_vae, windows):
    """At first a plain mean over steps, of the moments over all positions."""
    encode = quick(lambda p, v: vae.encode(p, VAE.model, v)[0])
    video = windows["video"].astype(np.float32) / 127.5 - 1.0
    state, moments = vae_state, []
    for _ in range(3):
        mean = np.asarray(encode(state.params, video), np.float64)
        axes = (0, 1, 2, 3)
        moments.append((mean.mean(axes), (mean**2).mean(axes)))
        state, _ = train_vae(state, windows)
    first, second = (np.mean(m, axis=0) for m in zip(*moments, strict=True))
    mean, std = latent_statistics(state.extra)
    np.testing.assert_allclose(mean, first, atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(second - first**2), rtol=1e-3)
    assert isinstance(mean, tuple) and all(type(x) is float for x in (*mean, *std))


# --- Every term -------------------------------------------------------------------

EVERY = replace(
    VAE,
    train="decoder",
    losses=VAELosses(
        perceptual=Perceptual(),
        equivariance=Equivariance(),
        adversarial=Adversarial(width=2, start_step=2, learning_rate=1e-2),
    ),
)
START = replace(VAE.model, latent_mean=(0.1, 0.2, 0.3), latent_std=(1.0, 2.0, 3.0))


@pytest.fixture(scope="module")
def every_state():
    params = random_like(discriminator_shapes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discriminator, "init", lambda key, width: params)
        return quick(functools.partial(vae_fine_tuned, cfg=EVERY, start=START))(
            vae_params(VAE.model)
        )


@pytest.fixture(scope="module")
def train_every():
    with pytest.MonkeyPatch.context() as patch:
        features = tiny_features(patch)
        compiled = quick(functools.partial(vae_step, cfg=EVERY))
        yield lambda state, batch: compiled(state, batch, features)


@pytest.mark.slow
def test_a_decoder_learns_every_term_and_its_latents_stay(
    every_state, train_every, windows
):
    """The discriminator waits for its start; one that breaks stops only its steps."""
    state, seen = every_state, []
    for _ in range(4):
        state, metrics = train_every(state, windows)
        seen.append({k: float(v) for k, v in metrics.items()})
        if state.step == 2:
            same(state.extra["discriminator"], every_state.extra["discriminator"])
    for tree in ("params", "ema"):
        before, after = getattr(every_state, tree), getattr(state, tree)
        same(before["encoder"], after["encoder"])
        assert not alike(before["decoder"], after["decoder"])
    same(state.extra["mean"], every_state.extra["mean"])
    same(state.extra["square"], every_state.extra["square"])
    names = ("adversarial", "adversarial_weight", "discriminator")
    assert all(seen[1][name] == 0 != seen[2][name] for name in names)
    assert not alike(state.extra["discriminator"], every_state.extra["discriminator"])
    for metrics in seen:
        weighted = sum(
            term.weight * metrics[name]
            for name, term in EVERY.losses
            if name != "adversarial"
        )
        weighted += metrics["adversarial_weight"] * metrics["adversarial"]
        np.testing.assert_allclose(metrics["loss"], weighted, rtol=1e-5)
    assert state.skipped == 0

    broken = jax.tree.map(lambda x: x, state)
    broken.extra["discriminator"]["params"]["logits"]["bias"] = jnp.full(1, jnp.nan)
    after, _ = train_every(broken, windows)
    assert after.skipped == after.skipped_in_a_row == 1
    same(after.params, broken.params)
    same(after.extra["discriminator"]["opt"], broken.extra["discriminator"]["opt"])


def alike(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)

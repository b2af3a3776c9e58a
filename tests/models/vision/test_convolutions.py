"""Inception against torch-fidelity, I3D against cd-fvd, and their preprocessing."""

import jax
import numpy as np
import pytest
from PIL import Image

from soraxla.models.vision import i3d, inception
from soraxla.models.vision.convolutions import average_pool, max_pool
from soraxla.models.vision.resize import bilinear
from tests.golden.vision import IMAGES, image, video
from tests.models.vision.golden import read_case, relative_error, write_convolutions

TOLERANCE = 1e-4


def inception_pixels():
    return inception.preprocess(
        [image(h, w, seed) for seed, (h, w) in enumerate(IMAGES)]
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("weights")
    return {n: write_convolutions(home / n, n) for n in ("inception", "i3d")}


@pytest.mark.slow
def test_inception_is_the_reference_s(folders, monkeypatch):
    case, pixels = read_case("inception"), inception_pixels()
    params, cfg = inception.load(folders["inception"])
    found = np.asarray(jax.jit(inception.features)(params, pixels))
    assert found.shape == (2, inception.dimension(cfg))
    assert relative_error(found, case["features"]) < TOLERANCE
    # Each property of the 2015 graph counts.
    for name, other in (("max_pool", False), ("average_pool", True)):
        with monkeypatch.context() as patch:
            patch.setattr(inception, name, pooled_otherwise(padded=other))
            # Another function, since jit keeps the program of the same one.
            run = jax.jit(lambda p, x: inception.features(p, x))
            wrong = np.asarray(run(params, pixels))
        assert relative_error(wrong, case["features"]) > 10 * TOLERANCE


def pooled_otherwise(*, padded):
    """Averages in the last block, or averages that count padding."""

    def average(x, window, padding):
        sides = ((0, 0), *((1, 1),) * len(window), (0, 0))
        return average_pool(jax.numpy.pad(x, sides), window, "VALID")

    def maximum(x, window, stride, padding):
        if padding == "SAME":
            return average_pool(x, window, padding)
        return max_pool(x, window, stride, padding)

    return average if padded else maximum


@pytest.mark.slow
def test_i3d_is_the_reference_s(folders):
    case = read_case("i3d")
    params, cfg = i3d.load(folders["i3d"])
    run = jax.jit(i3d.features)
    found = np.asarray(run(params, i3d.preprocess(video(0))[None]))
    assert found.shape == (1, i3d.dimension(cfg))
    assert relative_error(found, case["features"]) < TOLERANCE
    for wrong in (antialiased, rounded):
        other = np.asarray(run(params, wrong(video(0))[None]))
        assert relative_error(other, case["features"]) > 2 * TOLERANCE  # is refused


def antialiased(frames):
    """Resizes bytes with Pillow, which blurs first and rounds."""
    size = (i3d.SIDE, i3d.SIDE)
    small = [Image.fromarray(x).resize(size, Image.Resampling.BILINEAR) for x in frames]
    return np.stack([np.asarray(x, np.float32) / 255 * 2 - 1 for x in small])


def rounded(frames):
    """Resizes before it scales, in bytes."""
    small = [
        bilinear(x.astype(np.float32), i3d.SIDE, positions="centre") for x in frames
    ]
    return (np.round(np.stack(small)) / 255 * 2 - 1).astype(np.float32)


def test_inception_s_pixels_are_the_reference_s():
    """TensorFlow 1 samples at corners; centres differ by more than a byte."""
    case, pixels = read_case("inception"), inception_pixels()
    np.testing.assert_array_equal(pixels[:, ::16, ::16], case["pixels"])
    height, width = IMAGES[0]
    other = bilinear(
        image(height, width, 0).astype(np.float32), inception.SIDE, positions="centre"
    )
    assert np.abs((other - 128) / 128 - pixels[0]).max() > 0.1


def test_i3d_s_pixels_are_the_reference_s():
    case, frames = read_case("i3d"), video(0)[::5]
    kept = np.s_[:, ::16, ::16]
    np.testing.assert_allclose(i3d.preprocess(frames)[kept], case["pixels"], atol=2e-6)
    for wrong in (antialiased, rounded):
        error = np.abs(wrong(frames)[kept] - case["pixels"]).max()
        assert 1e-3 < error < 2e-2
    large = image(400, 500, 0)[None]
    error = np.abs(antialiased(large) - i3d.preprocess(large)).max()
    assert error > 0.1  # a resize with antialias blurs a larger image


def test_padding_counts_in_no_average():
    x = np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1)
    found = np.asarray(average_pool(x, (3, 3), "SAME"))[0, :, :, 0]
    for i in range(4):
        for j in range(5):
            around = x[0, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2, 0]
            assert found[i, j] == pytest.approx(around.mean())

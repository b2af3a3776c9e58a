"""DINOv2, VideoMAE and V-JEPA 2 against transformers, through its folders."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from soraxla.core.errors import UserError
from soraxla.models.vision import dinov2, videomae, vjepa2
from soraxla.models.vision.resize import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    bicubic_matrix,
)
from tests.golden.vision import LARGE, image, video
from tests.models.vision.golden import (
    read_case,
    relative_error,
    write,
    write_transformer,
)
from tests.tiny import quick

TOLERANCE = 1e-5
VIDEO = {
    "videomae": (videomae, 1),
    "videomae_pooled": (videomae, 1),
    "vjepa2": (vjepa2, 2),
}


def dinov2_pixels():
    return dinov2.preprocess([image(h, w, i) for i, (h, w) in enumerate(LARGE)])


@pytest.mark.parametrize("name", ["dinov2", "dinov2_gated"])
def test_dinov2_is_the_reference_s(name, tmp_path):
    """The first has positions of 5×5 patches for 16×16, the second a gate."""
    case, pixels = read_case(name), dinov2_pixels()
    params, cfg = dinov2.load(write_transformer(tmp_path, name))
    run = quick(dinov2.embed_images, static_argnums=1)
    found = np.asarray(run(params, cfg, pixels))
    assert relative_error(found, case["features"]) < TOLERANCE


def test_dinov2_s_pixels_are_the_reference_s():
    kept = dinov2_pixels()[:, ::16, ::16]
    np.testing.assert_allclose(kept, read_case("dinov2")["pixels"], atol=2e-6)


@pytest.mark.parametrize("name", VIDEO)
def test_video_features_are_the_reference_s(name, tmp_path):
    module, seed = VIDEO[name]
    case = read_case(name)
    params, cfg = module.load(write_transformer(tmp_path, name))
    pixels = module.preprocess(video(seed), cfg)
    if module is vjepa2:  # its reference resizes bytes with another rounding
        theirs = (case["bytes"].astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        assert np.abs(pixels - theirs).max() < 1.01 / 255 / 0.224
        pixels = theirs
    else:
        np.testing.assert_allclose(pixels[::5, ::4, ::4], case["pixels"], atol=2e-6)
    run = quick(module.embed_video, static_argnums=1)
    found = np.asarray(run(params, cfg, pixels[None]))
    assert relative_error(found, case["features"]) < TOLERANCE


def test_a_missing_tensor_is_named(tmp_path):
    """Weights of VideoMAE that were not trained further have another final norm."""
    folder = write_transformer(tmp_path / "whole", "videomae")
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    write(tmp_path / "other", weights, config | {"use_mean_pooling": True})
    with pytest.raises(UserError, match=r"2 missing, such as 'fc_norm\.bias'"):
        videomae.load(tmp_path / "other")


def test_a_grid_of_the_same_size_is_not_interpolated():
    np.testing.assert_allclose(bicubic_matrix(5, 5), np.eye(5), atol=1e-7)
    np.testing.assert_allclose(bicubic_matrix(37, 16).sum(1), 1.0, atol=1e-6)

"""Features of tokens: of a simulator, of DINOv2, and on their way to a batch."""

import json
from dataclasses import replace
from itertools import islice

import jax
import numpy as np
import pytest

from data_pipelines import prepare as prepare_module
from data_pipelines import records
from data_pipelines.dataset import open_dataset
from data_pipelines.encoders import Encoders
from data_pipelines.prepare import prepare
from data_pipelines.sources.media import Media
from data_pipelines.token_features import TokenFeatures, on_grid, simulated
from soraxla.core.errors import UserError
from soraxla.models.vision import dinov2, vit
from soraxla.packing.conditioning import SHARES, ConditioningMixture
from soraxla.tools.token_features import load_token_features
from soraxla.training.dit_experiment import with_features
from tests.data_pipelines import test_prepare
from tests.data_pipelines.test_loader import SPEC, batches_of
from tests.models.vision.test_transformers import write_transformer


def test_the_simulator_s_features_are_shares_colours_and_velocities():
    """A red object of a cell's size moves right by a cell each latent frame."""
    ids = np.zeros((9, 8, 16), np.uint8)
    frames = np.full((9, 8, 16, 3), 255, np.uint8)
    for frame in range(9):
        start = 4 * (1 + (frame - 1) // 4)  # 0, 4, 8: the same in a latent's frames
        ids[frame, 4:, start : start + 4] = 2
        frames[frame, 4:, start : start + 4] = (255, 0, 51)
    found = simulated(frames, ids, spatial=4)
    assert found.shape == (3, 2, 4, 21)
    here = np.zeros((3, 2, 4), bool)
    here[[0, 1, 2], 1, [0, 1, 2]] = True
    np.testing.assert_array_equal(found[..., 2], here)
    np.testing.assert_array_equal(found[..., 0], ~here)
    np.testing.assert_allclose(found[here][:, 16:19], [(1, 0, 0.2)] * 3, atol=1e-6)
    # A cell is a quarter of the width; nothing moves down.
    moved = [(0, 0), (2.5, 0), (2.5, 0)]
    np.testing.assert_allclose(found[here][:, 19:], moved, atol=1e-6)
    assert not found[~here][:, 16:].any()


def test_features_come_to_the_grid_of_tokens():
    fine = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(
        on_grid(fine, 2, 2)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]]
    )
    np.testing.assert_array_equal(on_grid(on_grid(fine, 2, 2), 4, 4)[0, :2, 2:], 4.5)
    np.testing.assert_array_equal(on_grid(fine, 4, 4), fine)


class Numbered:
    """A clip whose features number its latent frames and cells."""

    ids = np.ones((17, 32, 32), np.uint8)

    def __init__(self, number):
        self.uid = f"clip {number}"

    def open(self):
        frames = iter(np.zeros((17, 32, 32, 3), np.uint8))
        return Media("a clip", 16.0, frames, ids=self.ids)


class Clips(list):
    """A source of clips."""

    name, content = "clips", None


def test_stored_features_come_to_the_tokens_of_every_visit(tmp_path, monkeypatch):
    """Whatever the conditions; the features of appended ones are 0."""

    def of(frames, ids):
        assert ids.shape == frames.shape[:3]
        cells = np.stack(np.meshgrid(*map(np.arange, (5, 2, 2)), indexing="ij"), -1)
        return 1.0 + cells

    features = TokenFeatures("cells", "abc", 3, of)
    encode = Encoders(
        *(test_prepare.encode_videos, test_prepare.encode_text, 3, 8), features=features
    )
    source = Clips(Numbered(i) for i in range(4))
    monkeypatch.setattr(prepare_module, "open_source", lambda *_, **__: source)
    test_prepare.run("clips", tmp_path / "out", encode=encode, conditions=True)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.card["features"] == {"source": "cells", "sha256": "abc", "width": 3}
    mixture = ConditioningMixture(**dict.fromkeys(SHARES, 1 / len(SHARES)))
    spec = replace(SPEC, row_length=64, mixture=mixture)
    for batch in islice(iter(batches_of(dataset, spec, features=True)), 8):
        t, y, x = np.moveaxis(np.asarray(batch.features, np.float32) - 1, -1, 0)
        own = t >= 0
        assert own[(batch.segment_ids > 0) & ~batch.condition_mask].all()
        np.testing.assert_array_equal(y[own], batch.positions[own][:, 1])
        np.testing.assert_array_equal(x[own], batch.positions[own][:, 2])
    plain = next(iter(batches_of(dataset, spec)))
    assert plain.features.shape[-1] == 0


def test_a_dataset_without_features_is_as_it_was(tmp_path, monkeypatch):
    """Its card, and so its identity, says nothing of them."""
    source = Clips([Numbered(0)])
    monkeypatch.setattr(prepare_module, "open_source", lambda *_, **__: source)
    test_prepare.run("clips", tmp_path / "out")
    assert records.FEATURES not in json.loads(
        (tmp_path / "out/dataset.json").read_text()
    )
    settings = {"step": {"alignment": {"weight": 1.0}}}
    with pytest.raises(
        UserError, match=r"stores no features, .* prepare it with --fea"
    ):
        with_features(settings, open_dataset(tmp_path / "out"))


def test_wrong_features_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="--features clip: expected simulator or dinov2:"
    ):
        load_token_features("clip", 8)
    encode = Encoders(
        *(test_prepare.encode_videos, test_prepare.encode_text, 3, 8),
        features=load_token_features("simulator", 8),
    )
    (tmp_path / "media").mkdir()
    test_prepare.write_video(tmp_path / "media/a.png", test_prepare.noise(1, 32, 32), 0)
    (tmp_path / "media/a.txt").write_text("noise")
    with pytest.raises(UserError, match="has no ids of objects, which --features simu"):
        prepare(
            tmp_path / "media",
            tmp_path / "out",
            encode=encode,
            vae_dir=None,
            vae_sha256="abc",
            text_encoder="counting",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_dinov2_sees_the_last_frame_of_each_latent(tmp_path):
    folder = write_transformer(tmp_path, "dinov2")
    params, cfg = dinov2.load(folder)
    features = load_token_features(f"dinov2:{folder}", cfg.patch_size // 2)
    assert features.width == cfg.hidden_size
    shape = 9, 2 * cfg.patch_size, 3 * cfg.patch_size, 3
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = features.of(frames, None)
    assert found.shape == (3, 2, 3, cfg.hidden_size)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = (frames[8:] / np.float32(255) - np.array(mean)) / np.array(std)
    patches = vit.tubelets(pixels[:, None].astype(np.float32), 1, cfg.patch_size)
    expected = jax.jit(dinov2.patch_states, static_argnums=(1, 3))(
        params, cfg, patches, (2, 3)
    )
    np.testing.assert_allclose(found[2].reshape(6, -1), expected[0], atol=1e-4)

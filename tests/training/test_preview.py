"""A preview of a training: what it needs, and what it leaves alone."""

import json

import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from soraxla.checkpoints.model_folder import save_folder
from soraxla.media.write import write_video
from soraxla.training.preview import dit_preview, vae_preview
from soraxla.training.steps import DiTStepConfig, VAEStepConfig, dit_init, vae_init
from tests import tiny
from tests.data_pipelines.datasets import write_dataset


def test_the_text_encoder_need_not_be_there(tmp_path):
    """A fine-tuning's is large, and its folder on the machine that prepared."""
    data = write_dataset(tmp_path / "dataset", text_width=16)
    card = json.loads((data / "dataset.json").read_text())
    card["text_encoder"] = "umt5:/not/here"
    (data / "dataset.json").write_text(json.dumps(card))
    vae = tiny.loaded_vae()
    save_folder(data / "vae", vae.params, vae.config)
    step = DiTStepConfig(model=tiny.DIT)
    sheet = dit_preview(step, open_dataset(data))(dit_init(step))
    assert np.asarray(sheet).std() > 0


def test_files_are_read_for_a_preview_alone_and_tiny_ones_left_out(tmp_path):
    write_video(tmp_path / "tiny.png", [np.zeros((4, 4, 3), np.uint8)], 1)
    frames = np.random.default_rng(0).integers(0, 256, (23, 16, 24, 3), np.uint8)
    write_video(tmp_path / "clip.gif", frames, 24)
    (tmp_path / "words.mp4").write_text("no film")
    state = vae_init(VAEStepConfig(model=tiny.VAE))
    files = [tmp_path / name for name in ("tiny.png", "clip.gif")]
    both, one = (vae_preview(tiny.VAE, some)(state) for some in (files, files[1:]))
    np.testing.assert_array_equal(np.asarray(both), np.asarray(one))
    broken = vae_preview(tiny.VAE, [tmp_path / "words.mp4"])
    with pytest.raises(ValueError, match="corrupt or not a video"):
        broken(state)

"""Metrics of generated clips in a training: the clips, the reference, the settings."""

import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from soraxla.checkpoints.model_folder import save_folder
from soraxla.core.errors import UserError
from soraxla.diffusion.process import Process
from soraxla.evals import samples
from soraxla.evals.choice import Networks
from soraxla.evals.evaluator import EvaluationContext
from soraxla.evals.samples import Samples
from soraxla.parallel.mesh import one_device
from tests import tiny
from tests.data_pipelines.datasets import write_dataset
from tests.generation import fake


class Colours:
    """The mean colour of each frame."""

    name, sha256, dimension, frames = "colours", "0", 3, None

    def __call__(self, frames):
        return frames.mean(axis=(1, 2))


@pytest.fixture
def training(tmp_path, monkeypatch):
    fake.replace_models(monkeypatch)
    networks = Networks(extractors=[Colours()])
    monkeypatch.setattr(samples, "load_networks", lambda *_: networks)
    samples._networks.cache_clear()
    data = write_dataset(tmp_path / "dataset", text_width=16)
    vae = tiny.loaded_vae()
    save_folder(data / "vae", vae.params, vae.config)
    dit = tiny.loaded_dit()
    yield EvaluationContext(
        params=dit.params,
        model=dit.model,
        process=Process(),
        held_out=open_dataset(data),
        mesh=one_device(),
        step=3,
        workdir=tmp_path,
        seed=0,
    )
    samples._networks.cache_clear()


@pytest.mark.slow
def test_clips_like_held_out_ones_are_measured_against_them(training, monkeypatch):
    """The reference's numbers are read at the second time."""
    evaluator = Samples(every=1, clips=3, metrics=("frechet", "frame_change"), steps=1)
    found = evaluator.run(training)
    assert found.keys() == {"frechet/colours", "frame_change"}
    assert found["frechet/colours"].n == 3 and found["frechet/colours"].value > 0
    (file,) = (training.workdir / "samples").iterdir()
    monkeypatch.setattr(samples, "decoded", None)
    assert evaluator.run(training) == found
    with np.load(file) as stored:
        rows = dict(stored)
    np.savez(file, **{name: row + 50 for name, row in rows.items()})
    moved = evaluator.run(training)
    assert moved["frechet/colours"].value > found["frechet/colours"].value
    assert moved["frame_change"] == found["frame_change"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("psnr",)}, "has 'psnr', which compares a clip with its"),
        ({"metrics": ("frecht",)}, "unknown metric 'frecht'.*frechet"),
        ({"clips": 0}, "samples.clips is 0, expected at least 1"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Samples(every=1, **settings)

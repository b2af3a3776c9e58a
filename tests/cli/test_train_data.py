"""The data of `soraxla train`: several datasets and their weights."""

import json
import shutil
from pathlib import Path

import pytest

from soraxla.checkpoints.model_folder import save_folder
from soraxla.cli.main import main
from soraxla.cli.train import configured, weighted
from soraxla.core.errors import UserError
from soraxla.training.run import open_experiment
from tests import tiny
from tests.data_pipelines.datasets import write_dataset

# The dataset holds no conditions, so that most shares of the preset are 0.
NONE = dict.fromkeys(("tail", "first_last", "both_ends", "frames", "spatial"), 0.0)
TINY = ("loop.steps=3", f"pack.mixture={ {**NONE, 'none': 0.7} }")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A dataset of 4 latent channels with its VAE."""
    folder = write_dataset(tmp_path_factory.mktemp("packed") / "data", text_width=16)
    loaded = tiny.loaded_vae()
    save_folder(folder / "vae", loaded.params, loaded.config)
    return folder


def test_datasets_are_named_with_their_weights(tmp_path):
    (tmp_path / "b=2").mkdir()
    texts = ["a=0.7", f"{tmp_path}/b=2", "c", "d=x/e", "d=3=0.5"]
    expected = {"a": 0.7, f"{tmp_path}/b=2": 1.0, "c": 1.0, "d=x/e": 1.0, "d=3": 0.5}
    assert weighted(texts) == {Path(place): w for place, w in expected.items()}
    with pytest.raises(UserError, match="--data a: is named twice"):
        weighted(["a=0.7", "a"])


def test_several_datasets_are_one_training(packed, tmp_path, capsys):
    """Their shares are in the summary and in the record, and only a DiT has several."""
    other = shutil.copytree(packed, tmp_path / "other")
    for name, folder in (("one", packed), ("two", other)):
        card = json.loads((folder / "dataset.json").read_text())
        card["fingerprint"] = name
        (folder / "dataset.json").write_text(json.dumps(card))
    data = {str(packed): 3.0, other: 1.0}
    config = configured("dit:debug", list(TINY))
    opened = open_experiment(config, data=data, workdir=None)
    settings = opened.experiment.settings
    assert settings["data_weights"] == [0.75, 0.25]
    assert settings["data"] == ["one", "two"]
    assert f"{packed}: 7 samples for 0.75 of the visits; {other}: 7" in opened.data
    alone = open_experiment(config, data=[packed], workdir=None).experiment
    assert alone.settings["data"] == "one"
    assert "data_weights" not in alone.settings
    words = [
        "train",
        "--config",
        "vae:debug",
        "--data",
        packed,
        "--data",
        other,
        "--dry-run",
    ]
    assert main([str(word) for word in words]) == 2
    assert "--data is given 2 times, but a vae trains on one" in capsys.readouterr().err


SPEED = ("train", "--config", "dit:debug", "--data", "synthetic:40")
FEW = ("--set", "loop.steps=2", "--set", "pack.row_length=128")


def test_synthetic_data_say_so_and_are_as_wide_as_the_configuration():
    config = configured("dit:debug", ["loop.steps=2", "pack.row_length=128"])
    opened = open_experiment(config, data="synthetic:40", workdir=None)
    assert opened.data.startswith("synthetic, random latents and text: clips of 40 ")
    settings, experiment = opened.experiment.settings, opened.experiment
    assert settings["data"] == "synthetic:40" and experiment.context is None
    assert settings["vae_sha256"] == settings["text_encoder"] == "synthetic"
    batch = next(iter(experiment.batches))
    model = config["step"]["model"]
    assert batch.latents.shape[-1] == 4 * model["latent_channels"]
    assert batch.text.shape[-1] == model["text_width"]
    assert (batch.segment_ids > 0).sum() >= 120 * len(batch.segment_ids)


def test_synthetic_data_are_the_only_data_of_a_transformer(refusal):
    more = ("--data", "synthetic:9", "--dry-run")
    assert "synthetic:40: cannot be mixed" in refusal(*SPEED, *more)
    words = ("train", "--config", "vae:debug", "--data", "synthetic:40", "--dry-run")
    assert "trains a transformer, not a vae" in refusal(*words)


@pytest.mark.slow
def test_a_training_on_synthetic_data_goes_on_and_generates_nothing(
    tmp_path, capsys, refusal
):
    folder = tmp_path / "speed"
    for steps in ("loop.steps=1", "loop.steps=2"):
        words = (*SPEED, *FEW, "--set", steps, "--workdir", str(folder))
        assert main(list(words)) == 0
    out = capsys.readouterr().out
    assert "data    synthetic, random" in out and "generate" not in out
    assert json.loads((folder / "train.json").read_text())["data"] == "synthetic:40"
    assert not (folder / "vae").exists()
    words = ("generate", "--checkpoint", folder, "--prompt", "a", "--out", "a.mp4")
    assert "synthetic" in refusal(*words)

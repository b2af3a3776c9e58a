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

"""Reports of the doctor on a sound model, and on a faulty one."""

import json
import shlex

import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.cli.main import main, parser
from soraxla.media.write import write_video
from soraxla.packing.pack import PackConfig
from soraxla.tools import preflight
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.finetune import open_start
from soraxla.training.loop import LoopConfig
from tests import tiny
from tests.data_pipelines.datasets import write_dataset

SETS = (
    "step.model.remat=none",
    "pack.row_length=64",
    "pack.text_length=32",
    "pack.max_segments=4",
)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Random weights, a dataset that is theirs, and a clip."""
    folder = tmp_path_factory.mktemp("patient")
    for name, loaded in (("vae", tiny.loaded_vae()), ("dit", tiny.loaded_dit())):
        save_folder(folder / "weights" / name, loaded.params, loaded.config)
    data = write_dataset(folder / "dataset", text_width=16)
    write_card(data, vae_sha256=sha256_of_folder(folder / "weights" / "vae"))
    (data / "vae").symlink_to(folder / "weights" / "vae")
    media = folder / "media"
    media.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
    write_video(media / "clip.gif", frames, 24.0)
    return folder


def write_card(data, **changes):
    card = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**card, **changes}))


def command(folder):
    sets = [word for item in SETS for word in ("--set", item)]
    return [
        *("doctor", "--checkpoint", str(folder / "weights")),
        *("--data", str(folder / "dataset"), "--media", str(folder / "media")),
        *("--config", "configs/finetune_wan.py:full", *sets),
    ]


@pytest.mark.slow
def test_random_weights_are_told_and_what_is_well_is_too(patient, capsys):
    assert main(command(patient)) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line[:4] for line in lines] == ["ok  ", "FAIL", "FAIL", "ok  ", "ok  "]
    assert "weights are loaded: error on samples" in lines[1]
    assert "VAE round trip" in lines[2] and "dB over 1 clips" in lines[2]
    assert "a step needs" in lines[3] and "loss" in lines[4]
    assert err == (
        "soraxla doctor: not fit for training: weights are loaded, VAE round trip\n"
    )


def test_another_vae_s_dataset_is_told(patient):
    write_card(patient / "dataset", vae_sha256="b" * 64)
    start = open_start(patient / "weights")
    cfg = DiTTrainingConfig(
        step=DiTStepConfig(model=start.dit.model),
        pack=PackConfig(row_length=64, text_length=32, max_segments=4),
        loop=LoopConfig(steps=1),
    )
    dataset = open_dataset(patient / "dataset")
    first = next(preflight.examine(cfg, start, dataset, patient / "media"))
    assert first.name == "dataset matches" and not first.well
    assert "was prepared with another VAE" in first.found, first.found


def test_all_well_is_status_0(patient, capsys, monkeypatch):
    well = preflight.Check("memory", True, "enough")
    monkeypatch.setattr(preflight, "examine", lambda *_: iter([well]))
    assert main(command(patient)) == 0
    out, err = capsys.readouterr()
    assert out == "ok    memory: enough\n"
    data, init = patient / "dataset", patient / "weights"
    assert err.startswith("next: soraxla train --config ")
    assert f" --data {data} --init {init} " in err
    parser().parse_args(shlex.split(err)[2:])

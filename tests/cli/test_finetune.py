"""Wan's weights in, adapters trained, clips and files out: the commands in turn."""

import json
import shutil

import pytest
from safetensors.numpy import load_file

from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.cli.main import main
from soraxla.media.read import read_clip
from tests import tiny
from tests.data_pipelines.datasets import write_dataset
from tests.golden.wan import part, write_transformer

LORA = "configs/finetune_wan.py:lora"


def run(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """A small Wan transformer, imported, and a VAE that goes with it."""
    folder = tmp_path_factory.mktemp("weights")
    theirs = write_transformer(folder / "theirs")
    imported = folder / "wan"
    encoder = ("--text-encoder", "hashed:8")
    run("import", "wan", "--from", theirs, "--out", imported, *encoder)
    save_folder(imported / "vae", tiny.vae_params(), tiny.loaded_vae().config)
    return imported


@pytest.fixture(scope="module")
def dataset(wan, tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp("data") / "dataset")
    shutil.copytree(wan / "vae", path / "vae")
    card = json.loads((path / "dataset.json").read_text())
    card["vae_sha256"] = sha256_of_folder(path / "vae")
    (path / "dataset.json").write_text(json.dumps(card))
    return path


@pytest.mark.slow
def test_from_wan_weights_to_a_clip_and_an_adapter(wan, dataset, refusal, tmp_path):
    work = tmp_path / "run"
    command = ["train", "--data", dataset, "--workdir", work]
    sets = ["step.model.remat=none", "step.lora.rank=3", "loop.steps=2"]
    sets += ["pack.row_length=64", "pack.text_length=32", "pack.max_segments=4"]
    sets += ["step.optim.warmup_steps=1", "loop.checkpoint_every=2"]
    sets = [word for item in sets for word in ("--set", item)]
    run(*command, "--config", LORA, "--init", wan, *sets)
    assert json.loads((work / "train.json").read_text())["step"]["lora"]["rank"] == 3

    # What a folder of adapters and its base make together.
    clip = ["--prompt", "a", "--size", "16x16", "--frames", "5", "--steps", "1"]
    run("export", "--checkpoint", work, "--out", tmp_path / "ours")
    run("export", "wan", "--checkpoint", work, "--out", tmp_path / "theirs")
    clips = tmp_path / "run.mp4", tmp_path / "ours.mp4"
    for out in clips:
        run("generate", "--checkpoint", out.with_suffix(""), *clip, "--out", out)
    assert read_clip(clips[0]).shape == (5, 16, 16, 3)
    assert clips[0].read_bytes() == clips[1].read_bytes()
    merged = {}
    for file in (tmp_path / "theirs" / "transformer").glob("diffusion*.safetensors"):
        merged |= load_file(file)
    base = part("model")
    assert merged.keys() == base.keys()
    changed = {name for name in base if (merged[name] != base[name]).any()}
    assert changed == {name for name in base if ".to_" in name and "weight" in name}
    adapter = tmp_path / "adapter"
    run("export", "wan", "--checkpoint", work, "--out", adapter, "--adapter")
    (file,) = adapter.iterdir()
    assert {name.partition(".lora_")[0] for name in load_file(file)} == {
        f"transformer.{name.removesuffix('.weight')}" for name in changed
    }

    # What is refused, in one line.
    out = ("--out", tmp_path / "none")
    line = refusal("export", "--checkpoint", work, *out, "--adapter")
    assert "use export wan --adapter" in line
    for checkpoint, text in ((wan, "not a training folder"), (work, "exists")):
        options = ("--checkpoint", checkpoint, "--adapter")
        where = out if checkpoint == wan else ("--out", adapter)
        assert text in refusal("export", "wan", *options, *where)
    run(*command, "--config", LORA, *sets)  # the folder records its --init
    other = ("train", "--data", dataset, "--workdir", tmp_path / "other")
    line = refusal(*other, "--config", LORA, *sets)
    assert "name its folder with --init" in line
    line = refusal(*command, "--config", "configs/dit.py:debug", "--init", wan)
    assert "step.model." in line and "leave it out" in line
    line = refusal(*command, "--config", "configs/finetune_wan.py:lora8", "--init", wan)
    assert "unknown fine-tuning 'lora8': expected full or lora" in line
    line = refusal(
        *command, "--config", LORA, "--init", wan, *sets, "--set", "step.seed=1"
    )
    assert "was trained with step.seed" in line
    line = refusal(*command, "--config", LORA, "--init", tmp_path / "gone", *sets)
    assert "weights here, the folder is missing" in line

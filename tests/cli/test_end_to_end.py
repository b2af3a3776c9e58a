"""The whole chain of commands on two tiny samples."""

import json
import shutil

import pytest

from soraxla.cli.main import main
from soraxla.media.read import probe, read_clip
from tests.marks import slow

# One shape, since compiles are most of the time.
ONE_WINDOW = "windows.shapes=[{'frames': 5, 'height': 32, 'width': 32, 'batch': 1}]"
SMALL_VAE = ("step.model.multipliers=(1, 1, 1, 1)", "step.model.res_blocks=1")
SMALL_DIT = ("pack.row_length=128", "loop.keep=1", "step.model.remat=none")
SMALL_DIT += ("step.model.text_refiner_layers=0",)


def run(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def train(config, data, workdir, *sets, options=()) -> None:
    options = [*options, *(word for item in sets for word in ("--set", item))]
    run("train", "--config", config, "--data", data, "--workdir", workdir, *options)


def losses(workdir) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


@pytest.mark.slow
def test_from_media_to_a_video(media, other_vae, refusal, tmp_path):
    vae, dataset, dit = tmp_path / "vae", tmp_path / "dataset", tmp_path / "dit"
    start = ("--init", other_vae)
    sets = ("loop.steps=2", ONE_WINDOW, *SMALL_VAE)
    train("configs/vae.py:debug", media, vae, *sets, options=start)
    assert list(losses(vae)) == [1, 2]
    run("prepare", "--source", media, "--out", dataset, "--vae", vae)
    assert json.loads((dataset / "dataset.json").read_text())["samples"] == 2

    # Called again there is nothing left to do; other data or settings are refused.
    config = "configs/dit.py:debug"
    train(config, dataset, dit, *SMALL_DIT, "loop.steps=2")
    once = losses(dit)
    train(config, dataset, dit, *SMALL_DIT, "loop.steps=2")
    assert losses(dit) == once and list(once) == [1, 2]
    other = shutil.copytree(dataset, tmp_path / "other")
    card = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(card | {"vae_sha256": "0" * 64}))
    again = ["--config", config, "--workdir", dit, "--data"]
    assert "prepared with another VAE" in refusal("train", *again, other)
    line = refusal("train", *again, dataset, "--set", "step.seed=1")
    assert "was trained with" in line

    exported = tmp_path / "exported"
    run("export", "--checkpoint", dit, "--out", exported, "--dtype", "bfloat16")
    assert not list(tmp_path.glob(".*"))
    for checkpoint, out in ((dit, "a.mp4"), (exported, "b.webm")):
        options = ["--prompt", "colours", "--size", "33x21", "--seconds", "0.5"]
        options += ["--fps", "10", "--steps", "1", "--out", tmp_path / out]
        run("generate", "--checkpoint", checkpoint, *options)
        assert read_clip(tmp_path / out).shape == (5, 21, 33, 3)

    # A checkpoint cut short, and then none.
    generate = ["generate", "--checkpoint", dit, "--prompt", "a", "--size", "16x16"]
    generate += ["--out", tmp_path / "c.png"]
    for file in (dit / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 1:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot be restored" in refusal(*generate)
    shutil.rmtree(dit / "checkpoints")
    assert "no whole checkpoint" in refusal(*generate)
    assert not (tmp_path / "c.png").exists()


@pytest.mark.usefixtures("without_network")
@pytest.mark.parametrize("out", slow("a.mp4", "a.gif"))
def test_generate_replaces_an_old_file(checkpoint, tmp_path, out):
    file = tmp_path / out
    file.write_bytes(b"old")
    options = ["--prompt", "a red ball", "--size", "16x16", "--steps", "1"]
    run("generate", "--checkpoint", checkpoint, *options, "--out", file)
    assert probe(file).width == 16
    assert list(tmp_path.iterdir()) == [file]

"""Places that a command cannot use: URLs, and folders that hold something else."""

import io
import os
import sys

import pytest

from soraxla.cli.main import main
from soraxla.training.run import run_training
from tests.data_pipelines.datasets import write_dataset


@pytest.mark.parametrize(
    "words",
    [
        "export --checkpoint ftp://b/run --out o",
        "export --checkpoint run --out https://b/o",
        "prepare --source media --out gs://b/d",
        "prepare --source s3://b/media --out d",
        "train --config vae:debug --data media --workdir gs://b/run",
        "generate --prompt x --out ftp://b/x.mp4",
        "generate --prompts-file gs://b/x.txt",
        "generate --image https://example.com/a.png",
        "import wan --from a ftp://b/wan --out o",
        "plan --config dit:debug --topology v6e-8 --json gs://b/x.json",
        "doctor --checkpoint gs://b/x --data d --media m",
    ],
)
def test_a_url_is_refused_by_every_command(refusal, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert "only local files are read and written" in refusal(*words.split())
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_may_be_a_url(refusal):
    words = ["--prompt", "gs://red", "--negative-prompt", "s3://x", "--steps", "0"]
    assert "steps is 0" in refusal("generate", *words)


def test_a_dataset_is_no_training_folder(refusal, tmp_path, media):
    write_dataset(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    options = ["--config", "dit:debug", "--data", tmp_path / "data"]
    line = refusal("train", *options, "--workdir", tmp_path / "data")
    assert "is a dataset; name a folder for the run" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a[1]", "b\\c", "d*"])
def test_a_path_that_is_a_pattern_is_refused_before_the_work(tmp_path, name):
    with pytest.raises(ValueError, match="its checkpoints could not be restored"):
        run_training({"kind": "vae"}, data=tmp_path, workdir=tmp_path / name / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_leaves_does_not_end_a_batch(monkeypatch, name):
    """As `soraxla generate … | head -1` does, and with 2>&1."""
    reading, writing = os.pipe()
    stream = io.TextIOWrapper(os.fdopen(writing, "wb", 0), write_through=True)
    monkeypatch.setattr(sys, name, stream)
    os.close(reading)
    done = []

    def run(args):
        for n in range(3):
            print(n, file=getattr(sys, name), flush=True)
            done.append(n)

    monkeypatch.setattr("soraxla.cli.demo.run", run)
    assert main(["demo"]) == 0
    assert done == [0, 1, 2]
    stream.close()

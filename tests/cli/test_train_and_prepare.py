"""Inputs that `train`, `prepare`, `export` and `demo` refuse early, in one line."""

import json
import os
import re
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.checkpoints.training_folder import SETTINGS
from soraxla.cli.main import main
from soraxla.cli.train import configured
from soraxla.models.text import load_text_encoder
from soraxla.training.record import check_record, write_record
from soraxla.training.run import open_experiment
from tests import tiny
from tests.data_pipelines.datasets import write_dataset
from tests.generation import fake
from tests.models.text.golden import write_encoder

VAE = "vae:debug"
DIT = "dit:debug"


@pytest.fixture
def refuse(refusal, tmp_path):
    """A refused command; it must leave no file below `tmp_path`."""

    def run(*arguments) -> str:
        before = sorted(tmp_path.rglob("*"))
        line = refusal(*arguments)
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return line

    return run


@pytest.mark.parametrize(
    ("config", "sets", "text"),
    [
        ("configs/dot.py", [], "no such configuration"),
        ("docs/training.md", [], "not a Python file"),
        ("dot:xs", [], "unknown preset 'dot': did you mean 'dit'?"),
        ("soraxla/core/types.py", [], "types.py: has no get_config()"),
        ("dit:huge", [], "train: unknown DiT size 'huge': did you mean"),
        ("configs/dit.py:huge", [], "dit.py:27: unknown DiT size 'huge'"),
        ("vae:huge", [], "unknown VAE size 'huge'"),
        (VAE, ["loop.stpes=3"], "'loop.stpes': did you mean 'loop.steps'?"),
        (VAE, ["lop.steps=3"], "'lop.steps': did you mean 'loop.steps'?"),
        (VAE, ["loop.steps.most=3"], "unknown setting 'loop.steps.most'"),
        (VAE, ["loop.steps"], "expected KEY=VALUE"),
        (VAE, ["loop.steps=many"], "'loop.steps' is 'many', expected int"),
        (VAE, ["loop={'steps': 3, 'evry': 1}"], "'loop.evry': did you mean"),
        (VAE, ["kind='gan'"], "unknown setting 'kind'"),
    ],
)
def test_bad_configurations(refuse, media, tmp_path, config, sets, text):
    options = [word for assignment in sets for word in ("--set", assignment)]
    line = refuse(
        "train", "--config", config, "--data", media, "--workdir", tmp_path / "run",
        *options,
    )  # fmt: skip
    assert text in line


def test_a_configuration_of_ones_own(refuse, media, tmp_path):
    """An unknown key in the file itself is named, as is a file without sizes."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'kind': 'vae', 'stop': {'seed': 1}})\n"
    )
    options = ["--data", media, "--workdir", tmp_path / "run"]
    line = refuse("train", "--config", file, *options)
    assert "unknown setting 'stop': did you mean 'step'?" in line
    assert "takes no argument" in refuse("train", "--config", f"{file}:xs", *options)


def test_bad_training_data(refuse, media, tmp_path):
    (tmp_path / "empty").mkdir()
    for config, data, text in (
        (VAE, tmp_path / "missing", "no such folder"),
        (VAE, tmp_path / "empty", "no media"),
        (DIT, tmp_path / "missing", "missing"),
        (DIT, media, "dataset.json"),
    ):
        options = ["--data", data, "--workdir", tmp_path / "run"]
        assert text in refuse("train", "--config", config, *options)


def test_a_start_that_is_not_there(refuse, media, other_vae, tmp_path):
    options = ["--data", media, "--workdir", tmp_path / "run"]
    for config, init in ((DIT, other_vae), (VAE, tmp_path / "gone")):
        line = refuse("train", "--config", config, "--init", init, *options)
        assert "weights here, the folder is missing" in line


@pytest.mark.slow
def test_prepare_with_pretrained_weights(media, other_vae, tmp_path, monkeypatch):
    """The card names the encoder, and the records hold what it gives."""
    monkeypatch.setattr("soraxla.tools.prepare.encode_clips", fake.encode_clips)
    name = f"umt5:{write_encoder(tmp_path / 'umt5', 'umt5')}"
    out = tmp_path / "dataset"
    words = ["--source", media, "--vae", other_vae, "--out", out]
    words = ["prepare", *words, "--text-encoder", name]
    assert main([str(word) for word in words]) == 0
    card = json.loads((out / "dataset.json").read_text())
    assert (card["text_encoder"], card["text_width"]) == (name, 24)
    dataset = open_dataset(out)
    captions = ["", "colours that drift", "colours that stand still"]
    expected = load_text_encoder(card["text_encoder"])(captions)
    found = [dataset.empty_text, *(dataset.read(i)[1] for i in range(2))]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(ml_dtypes.bfloat16))


def test_a_training_folder_below_a_file(refuse, media, tmp_path):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "run"
    line = refuse("train", "--config", VAE, "--data", media, "--workdir", workdir)
    assert "Not a directory" in line
    line = refuse(
        "train", "--config", VAE, "--data", media, "--workdir", workdir.parent
    )
    assert "file: is a file, expected a folder" in line


def test_a_dataset_that_is_not_finished(refuse, tmp_path):
    (tmp_path / "data" / "progress").mkdir(parents=True)
    options = ["--data", tmp_path / "data", "--workdir", tmp_path / "run"]
    line = refuse("train", "--config", DIT, *options)
    assert "data: is not finished (no dataset.json); run soraxla prepare" in line


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"source": "missing"}, "missing"),
        ({"source": "empty"}, "empty"),
        ({"source": "corrupt"}, "cannot be used"),
        ({"source": "outside"}, "captions.jsonl"),
        ({"source": "tfds:no_such_dataset_here"}, "no_such_dataset_here"),
        ({"vae": "missing"}, "weights here, the folder is missing"),
        ({"text-encoder": "hasched"}, "did you mean 'hashed'?"),
        ({"text-encoder": "umt5"}, "write umt5:PATH"),
        ({"text-encoder": "umt5:missing"}, "missing: no such folder"),
        ({"max-tokens": 0}, "max_tokens is 0"),
        ({"max-bad": 2}, "max_bad is 2.0"),
        ({"out": "corrupt"}, "is not empty and holds no dataset"),
        ({"out": "corrupt/a.mp4"}, "is a file"),
        ({"out": "corrupt/a.mp4/dataset"}, "Not a directory"),
    ],
)
def test_bad_prepare(refusal, media, other_vae, tmp_path, options, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "a.mp4").write_bytes(b"not a film")
    (tmp_path / "corrupt" / "a.txt").write_text("a caption")
    (tmp_path / "outside").mkdir()
    entry = json.dumps({"file": "../corrupt/a.mp4", "caption": "a caption"})
    (tmp_path / "outside" / "captions.jsonl").write_text(entry)
    given = {"source": media, "vae": other_vae, "out": tmp_path / "dataset"}
    for name, value in options.items():
        path = name in given and not str(value).startswith("tfds:")
        given[name] = tmp_path / value if path else value
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert text in refusal("prepare", *words)
    assert not (tmp_path / "dataset" / "dataset.json").exists()


def test_bad_exports(refuse, checkpoint, tmp_path):
    (tmp_path / "there").mkdir()
    out = tmp_path / "out"
    for source, target, text in (
        (tmp_path / "missing", out, "not a training folder"),
        (checkpoint, out, "not a training folder"),
        (checkpoint, tmp_path / "there", "exists"),
    ):
        assert text in refuse("export", "--checkpoint", source, "--out", target)
    (tmp_path / SETTINGS).write_text('{"kind":')
    assert "damaged" in refuse("export", "--checkpoint", tmp_path, "--out", out)


def test_a_demo_below_a_file(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    line = refuse("demo", "--smoke", "--workdir", tmp_path / "file" / "demo")
    assert "Not a directory" in line
    assert "is a file" in refuse("demo", "--smoke", "--workdir", tmp_path / "file")


# --- The summary ------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path_factory):
    """A dataset of 4 latent channels with its VAE."""
    folder = tmp_path_factory.mktemp("packed") / "dataset"
    write_dataset(folder, text_width=16)
    loaded = tiny.loaded_vae()
    save_folder(folder / "vae", loaded.params, loaded.config)
    return folder


# The dataset holds no conditions, so that most shares of the preset are 0.
NONE = dict.fromkeys(("tail", "first_last", "both_ends", "frames", "spatial"), 0.0)
TINY = (
    "loop.steps=3",
    f"pack.mixture={ {**NONE, 'none': 0.7} }",
)


def train_words(config, data, workdir, sets):
    words = ["train", "--config", config, "--data", data, "--workdir", workdir]
    words += [word for item in sets for word in ("--set", item)]
    return [str(word) for word in words]


def test_a_dry_run_says_what_a_training_comes_to_and_writes_nothing(
    packed, tmp_path, capsys, monkeypatch
):
    def step(state, batch, cfg, **_):
        """Compiles at once; tests/cli/test_doctor.py compiles the real one."""
        return state, {"sum": jnp.sum(batch.latents)}

    monkeypatch.setattr("soraxla.training.dit_experiment.dit_step", step)
    words = ["train", "--config", DIT, "--data", packed, "--dry-run"]  # no --workdir
    words += [word for item in TINY for word in ("--set", item)]
    before = sorted(tmp_path.rglob("*"))
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "not as in the preset:"
    assert lines[1] == "  loop.steps = 3 (preset: 500)"
    held, needed = re.findall(r"([\d.]+) MiB a device", out)
    assert float(needed) >= float(held) > 0
    for name in ("model", "mesh", "data", "a step", "memory", "steps"):
        assert any(line.startswith(f"{name} ") for line in lines), name
    assert f"{packed}: " in out and " FLOPs, in the mean" in out
    assert lines[lines.index("settings:") + 1 :] == sorted(
        lines[lines.index("settings:") + 1 :]
    )
    # Taken from the dataset: the preset has 16 channels, and text of width 256.
    assert "  step.model.latent_channels = 4" in lines
    assert "  step.model.text_width = 16" in lines
    assert sorted(tmp_path.rglob("*")) == before


def test_a_training_has_the_flops_of_a_token_where_they_are_counted(packed):
    """Not where a part of the parameters is trained, and less is computed."""
    part = ("step.part=forecast", "step.model.forecast_layers=1")
    for sets in ((), part):
        config = configured(DIT, [*TINY, *sets])
        opened = open_experiment(config, data=packed, workdir=None)
        flops, work = opened.experiment.unit_flops, opened.work
        assert flops == (None if sets else work.flops / work.amount)


def test_a_training_needs_a_folder(refuse, media):
    line = refuse("train", "--config", VAE, "--data", media)
    assert "--workdir is missing" in line


def test_a_dry_run_of_a_vae(media, tmp_path, capsys):
    assert main([*train_words(VAE, media, tmp_path / "run", ()), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2 files" in out and "preset" not in out and " px, in the mean" in out


def test_a_training_says_so_at_its_start_and_what_to_type_at_its_end(
    media, tmp_path, capsys, monkeypatch
):
    def train(experiment, loop, workdir, **_):
        assert "not as in the preset:" in capsys.readouterr().out
        return SimpleNamespace(step=np.asarray(loop.steps), skipped=np.asarray(0))

    monkeypatch.setattr("soraxla.training.run.train", train)
    assert main(train_words(VAE, media, tmp_path / "run", ["loop.steps=3"])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'run'}: step 3 of 3")
    assert lines[1].startswith("next: soraxla prepare --source MEDIA --vae ")


@pytest.fixture
def untrained(monkeypatch):
    """A training ends at once, and its folder is recorded as trained."""

    def train(experiment, loop, workdir, *, change, **_):
        record = experiment.settings, experiment.config, change
        check_record(workdir, *record)
        write_record(workdir, *record, step=loop.steps)
        return SimpleNamespace(step=np.asarray(loop.steps), skipped=np.asarray(0))

    monkeypatch.setattr("soraxla.training.run.train", train)


@pytest.mark.slow
def test_a_vae_goes_on_with_its_own_media_only(media, tmp_path, refusal, untrained):
    """The message on settings gives the command that does what was meant."""
    copy, run, rate = tmp_path / "media", tmp_path / "run", "step.optim.learning_rate"
    shutil.copytree(media, copy)
    words = train_words(VAE, copy, run, ["loop.steps=3"])
    assert main(words) == 0
    line = refusal(*words, "--set", f"{rate}=1e-5")
    assert f"--change {rate}=1e-05 in place of --set" in line
    before = (run / SETTINGS).read_bytes()
    os.utime(next(copy.glob("*.mp4")), (1, 1))
    assert "was trained on another dataset" in refusal(*words)
    assert (run / SETTINGS).read_bytes() == before
    shutil.rmtree(copy)
    shutil.copytree(media, tmp_path / "moved")  # with their times
    words[words.index(str(copy))] = str(tmp_path / "moved")
    assert main([*words, "--change", f"{rate}=1e-5"]) == 0
    [change] = json.loads((run / SETTINGS).read_text())["changes"]
    assert change["key"] == rate and change["step"] == 3 and change["new"] == 1e-5
    assert main(words) == 0


def test_a_transformer_goes_on_with_its_own_dataset_only(
    packed, tmp_path, refusal, untrained
):
    """A dataset of longer clips is named as such, not by a length that nobody set."""
    run, one, other = (tmp_path / name for name in ("run", "one", "other"))
    for folder, grid in ((one, (3, 4, 4)), (other, (9, 4, 4))):
        write_dataset(folder, grids=[grid], text_width=16)
        shutil.copytree(packed / "vae", folder / "vae")
        card = json.loads((folder / "dataset.json").read_text())
        card["vae_sha256"] = sha256_of_folder(folder / "vae")
        card["fingerprint"] = folder.name
        (folder / "dataset.json").write_text(json.dumps(card))
    assert main(train_words(DIT, one, run, TINY)) == 0
    line = refusal(*train_words(DIT, other, run, TINY))
    assert "was trained on another dataset" in line
    assert "max_latent_frames" not in line
    line = refusal(*train_words(DIT, one, run, [*TINY, "pack.row_length=512"]))
    assert "was trained with pack.row_length = 1024, not 512; leave" in line


@pytest.mark.parametrize(("skipped", "status"), [(0, 0), (1, 0), (2, 2)])
def test_a_training_that_diverged_says_so_and_fails(
    media, tmp_path, capsys, monkeypatch, skipped, status
):
    """More than a tenth of ten steps were skipped."""

    def train(experiment, loop, workdir, *, interrupts, **_):
        assert interrupts  # Ctrl-C saves
        return SimpleNamespace(step=np.asarray(10), skipped=np.asarray(skipped))

    monkeypatch.setattr("soraxla.training.run.train", train)
    words = train_words(VAE, media, tmp_path / "run", ["loop.steps=10"])
    assert main(words) == status
    out, err = capsys.readouterr()
    assert (f"{skipped} of 10 steps had no finite gradient: skipped" in out) == (
        skipped > 0
    )
    assert ("lower the rates" in err) == (status == 2)


def test_a_second_interrupt_says_where_the_training_stands(
    media, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    (run / "checkpoints" / "6").mkdir(parents=True)
    (run / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()

    def train(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("soraxla.training.run.train", train)
    assert main(train_words(VAE, media, run, ["loop.steps=10"])) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(
        f"the same command goes on from the checkpoint of step 6 of 10 in {run}"
    )

"""Training folders of commit e215bbb are models to start from, and are not continued.

That commit trained each folder of `tests/golden/training_e215bbb` for three steps. Its
trainings weigh clips by the rows that share their step, so this version would not end
where that one does. It reads their settings and their parameters.
"""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from soraxla.checkpoints.load import load_dit
from soraxla.cli.main import main
from soraxla.cli.train import configured
from soraxla.training.run import open_experiment
from tests.marks import slow

TESTS = Path(__file__).parent.parent
GOLDEN, CONFIGS = TESTS / "golden" / "training_e215bbb", TESTS.parent / "configs"

# The commands in the README of the folders have these settings too.
VAE = """vae.py:debug --data media --set step.model.base_width=2
    --set step.model.latent_channels=2 --set step.model.multipliers=[1,1]
    --set step.model.temporal_down=[True] --set step.model.res_blocks=1
    --set windows.shapes=[{'frames':3,'height':8,'width':8,'batch':1}]"""
ROWS = """--data dataset --set pack.row_length=32 --set pack.text_length=8
    --set pack.max_segments=2 --set step.optim.warmup_steps=1"""
DIT = f"""dit.py:debug {ROWS} --set step.model.layers=1 --set step.model.width=12
    --set step.model.heads=2 --set step.model.mlp_width=16
    --set step.model.latent_channels=4 --set step.model.text_width=8
    --set step.model.text_refiner_layers=0 --set step.model.dtype=float32"""
LORA = f"finetune_wan.py:lora {ROWS} --init base --set step.lora.rank=2"

KINDS = pytest.mark.parametrize(
    ("kind", "options"), [("lora", LORA), ("vae", VAE), ("dit", DIT)]
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a copy of the golden one. There is one device."""
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda *_: devices[:1])
    copy = tmp_path / "copy"
    shutil.copytree(GOLDEN, copy)
    monkeypatch.chdir(copy)
    return copy


@KINDS
def test_an_old_folder_is_refused_in_one_line_and_unchanged(
    kind, options, folder, capsys
):
    words = ["train", "--config", *f"{CONFIGS}/{options}".split(), "--workdir", kind]
    assert main([*words, "--set", "loop.steps=5"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "another schedule" in line and "soraxla 0.1.0" in line
    assert f"--init {kind} --workdir NEW" in line
    for file in (GOLDEN / kind).rglob("*"):
        assert (
            file.is_dir()
            or file.read_bytes()
            == Path(kind, file.relative_to(GOLDEN / kind)).read_bytes()
        )


@pytest.mark.parametrize(
    ("kind", "options"), [("dit", DIT), *slow(("lora", LORA), ("vae", VAE))]
)
def test_an_old_folder_is_a_model_to_start_from(kind, options, folder, tmp_path):
    """The base of the adapters is the export that e215bbb made of `dit`."""
    spec, _, data, *words = f"{CONFIGS}/{options}".split()
    sets = [word for word in words if "=" in word]
    opened = open_experiment(configured(spec, sets), data=data, workdir=None, init=kind)
    assert opened.experiment.state.step.shape == ()
    assert main(["export", "--checkpoint", kind, "--out", "exported"]) == 0
    if kind == "dit":
        expected = numbers("base/dit")
        assert expected.keys() == numbers("exported/dit").keys()
        for name, values in numbers("exported/dit").items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
    if kind == "lora":
        merged, base = (load_dit(Path(f)).params for f in ("lora", "base/dit"))
        one, other = (x["blocks"]["self_attn"]["q"]["kernel"] for x in (merged, base))
        assert 0 < np.abs(one - other).max() < 0.01


def numbers(folder):
    """Returns the tensors of exported weights."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    return {k: v for file in files for k, v in load_file(file).items()}

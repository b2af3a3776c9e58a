"""Training folders of commit e215bbb continue with the same results.

That commit trained each folder of `tests/golden/training_e215bbb` for three steps. It
trained the same for five steps without a stop and exported the parameters. The test
continues a copy of the folder to five steps and compares both exports.

The two differ by rounding: later commits round the noise differently, and other
machines add in another order. Adam scales a gradient by its own size, so an update
differs by the learning rate times the relative difference of the gradients. The
tolerance is a hundredth of the learning rate. Lost moments, other rows or other noise
change parameters by tenths of the learning rate.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from soraxla.cli.main import main
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


@pytest.fixture(autouse=True)
def quick_compilation_on_one_device(monkeypatch):
    """Limits the commands to one device and leaves out XLA's optimisations."""
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda *_: devices[:1])
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(
    ("kind", "options", "rate"),
    [
        ("lora", LORA, 1e-4),  # it reads a base too
        *slow(("vae", VAE, 5e-4), ("dit", DIT, 1e-3)),
    ],
)
def test_an_old_folder_continues(kind, options, rate, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(GOLDEN, folder)
    monkeypatch.chdir(folder)
    words = ["train", "--config", *f"{CONFIGS}/{options}".split(), "--workdir", kind]
    assert main([*words, "--set", "loop.steps=5", "--set", "loop.keep=1"]) == 0
    assert main(["export", "--checkpoint", kind, "--out", "exported"]) == 0

    assert [path.name for path in Path(kind, "checkpoints").iterdir()] == ["5"]
    assert list(losses(kind)) == [1, 2, 3, 4, 5]
    expected = losses(f"unbroken/{kind}")
    assert losses(kind) == pytest.approx(expected, rel=1e-4)
    expected = numbers(f"unbroken/{kind}")
    found = numbers("exported")
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, 0, 0.01 * rate, err_msg=name)


def losses(folder):
    """Returns the loss of each step that a folder has metrics of."""
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def numbers(folder):
    """Returns the tensors of exported weights and the statistics of a VAE's latents."""
    found = {}
    for file in sorted(Path(folder).rglob("*.safetensors")):
        place = file.relative_to(folder)
        found |= {f"{place}: {name}": value for name, value in load_file(file).items()}
    config = Path(folder, "config.json")
    if config.exists():
        model = json.loads(config.read_text())["model"]
        found |= {name: model[name] for name in ("latent_mean", "latent_std")}
    return found

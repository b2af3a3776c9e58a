"""Trainings over meshes and by several processes give the losses of one device."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.core.config import to_dict
from soraxla.models.dit.config import dit_config
from soraxla.packing.tasks import SHARES
from soraxla.training.dit_step import dit_init
from soraxla.training.saving import Checkpoints
from tests import tiny
from tests.data_pipelines.datasets import write_dataset
from tests.training import mesh_run

ROOT = Path(__file__).parents[2]
STEPS = 20
TWO_BY_TWO = {"fsdp": 2, "context": 2}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("mesh") / "data")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The folder of a training on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    mesh_run.run(data, workdir, STEPS, checkpoint_every=4)
    return workdir


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return np.array([r["loss"] for r in map(json.loads, lines) if "loss" in r])


def evaluation(workdir):
    """Every metric of the one evaluation: value, interval, and number of clips."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    (record,) = (r for r in map(json.loads, lines) if "eval/val_loss/loss" in r)
    return {
        f"{name} {part}": value
        for name, metric in record.items()
        if name.startswith("eval/val_loss/")
        for part, value in metric.items()
    }


def assert_same_curve(one, other):
    assert len(losses(one)) == STEPS
    np.testing.assert_allclose(losses(other), losses(one), rtol=1e-5)


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"fsdp": 2, "context": 4},  # as many heads: Ulysses
        {"context": 8},  # more than there are heads: ring
    ],
    ids=str,
)
def test_every_axis_gives_the_losses_of_one_device(data, alone, tmp_path, mesh):
    mesh_run.run(data, tmp_path, STEPS, mesh)
    assert_same_curve(alone, tmp_path)


def test_a_checkpoint_of_eight_devices_goes_on_on_others(
    data, alone, tmp_path, monkeypatch
):
    """On one, on two processes of two, and on four."""
    eight, two, four = (tmp_path / name for name in ("eight", "two", "four"))
    mesh_run.run(data, eight, 4, {"fsdp": 4, "tensor": 2})
    shutil.copytree(eight, four)
    shutil.copytree(eight, two)
    mesh_run.run(data, eight, STEPS)
    assert_same_curve(alone, eight)
    finish(start(data, two, TWO_BY_TWO, processes=2))
    assert_same_curve(alone, two)
    devices = jax.devices()[:4]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    mesh_run.run(data, four, STEPS, {"data": 2, "fsdp": 2})
    assert_same_curve(alone, four)


# --- Several processes --------------------------------------------------------------


def start(data, workdir, mesh, *, processes, devices=2, steps=STEPS):
    """Starts the processes of one training, compiled quickly and once."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(data.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    coordinator = f"localhost:{mesh_run.free_port()}"
    command = [sys.executable, "-m", "tests.training.mesh_run", str(data), str(workdir)]
    command += [str(steps), str(mesh), str(devices), coordinator, str(processes)]
    return [
        subprocess.Popen(
            [*command, str(process)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]


def finish(running):
    """Waits for processes that must end well; returns their outputs."""
    outputs = []
    for process in running:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out[-3000:]
        outputs.append(out)
    return outputs


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """The folder of a training by two processes."""
    workdir = tmp_path_factory.mktemp("two")
    finish(start(data, workdir, TWO_BY_TWO, processes=2, steps=2 * STEPS))
    return workdir


def test_two_processes_give_the_loss_of_one(alone, two):
    np.testing.assert_allclose(losses(two)[:STEPS], losses(alone), rtol=1e-5)


def test_two_processes_of_four_devices(data, alone, tmp_path):
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    finish(start(data, tmp_path, mesh, processes=2, devices=4))
    assert_same_curve(alone, tmp_path)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_the_command_on_two_processes_is_the_command_on_one(data, way, tmp_path):
    """Each reads its own rows and all the model; the first copies the VAE for both."""
    model, vae = tmp_path / "model", tmp_path / "vae"
    save_folder(vae, tiny.vae_params(), tiny.loaded_vae().config)
    sizes = dit_config("debug", latent_channels=4, text_width=8, dtype="float32")
    config = {**tiny.loaded_dit().config, "model": to_dict(sizes)}
    config |= {"text_encoder": "hashed:8"}
    save_folder(model / "dit", tiny.dit_params(sizes), config)
    shutil.copytree(vae, model / "vae")
    dataset = shutil.copytree(data, tmp_path / "data")
    shutil.copytree(vae, dataset / "vae")
    card = json.loads((dataset / "dataset.json").read_text())
    card |= {"vae_sha256": sha256_of_folder(vae)}
    (dataset / "dataset.json").write_text(json.dumps(card))
    settings = {
        **{f"pack.mixture.{task}": float(task == "none") for task in SHARES},
        **{"batch_rows": 4, "loop.steps": 3, "loop.evaluators.preview.every": 3},
        **{"eval_share": 0.4, "loop.evaluators.val_loss.every": 3},
        **{"pack.row_length": 1024, "pack.text_length": 512, "pack.max_segments": 16},
    }
    command = [sys.executable, "-m", "soraxla.cli.main", "train"]
    command += ["--config", f"configs/finetune_wan.py:{way}", "--init", str(model)]
    command += ["--data", str(dataset)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(data.parent / "cache"),
    }
    one, two = tmp_path / "one", tmp_path / "two"
    group = ["--coordinator", f"localhost:{mesh_run.free_port()}", "--processes", "2"]
    runs = (
        (one, [[]]),
        (two, [[*group, "--process-id", "0"], [*group, "--process-id", "1"]]),
    )
    for workdir, processes in runs:
        finish(
            [
                subprocess.Popen(
                    [*command, "--workdir", str(workdir), *options],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for options in processes
            ]
        )
        assert (workdir / "vae" / "config.json").is_file()
        assert len(list((workdir / "previews").glob("*.png"))) == 1
        assert evaluation(workdir) == pytest.approx(evaluation(one), rel=1e-5)
    assert len(evaluation(one)) > 4 * 11  # the loss, ten bins, and size classes
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)


def test_four_processes_two_of_which_hold_halves_of_rows(data, alone, tmp_path):
    finish(start(data, tmp_path, {"fsdp": 2, "context": 4}, processes=4))
    assert_same_curve(alone, tmp_path)


def wait_for_step(workdir, step, running):
    deadline = time.monotonic() + 240
    folder = workdir / "checkpoints"
    while not any(int(p.name) >= step for p in folder.glob("*") if p.name.isdecimal()):
        if time.monotonic() > deadline or any(p.poll() is not None for p in running):
            for process in running:
                process.kill()
            pytest.fail(running[0].communicate()[0][-3000:])
        time.sleep(0.02)


def test_one_of_two_processes_is_killed_and_both_start_again(data, two, tmp_path):
    running = start(data, tmp_path, TWO_BY_TWO, processes=2, steps=2 * STEPS)
    wait_for_step(tmp_path, 4, running)
    running[1].send_signal(signal.SIGKILL)
    for process in running:
        process.communicate(timeout=240)
    assert [process.returncode == 0 for process in running] == [False, False]
    finish(start(data, tmp_path, TWO_BY_TWO, processes=2, steps=2 * STEPS))
    assert losses(tmp_path).tolist() == losses(two).tolist()
    assert same_state(two, tmp_path)


def test_a_preempted_process_stops_all_at_one_step(data, tmp_path):
    running = start(data, tmp_path, TWO_BY_TWO, processes=2, steps=4000)
    wait_for_step(tmp_path, 4, running)
    running[1].send_signal(signal.SIGTERM)
    finish(running)
    (last,) = sorted(map(int, os.listdir(tmp_path / "checkpoints")))[-1:]
    assert 4 < last < 4000 and len(losses(tmp_path)) == last


@pytest.mark.parametrize("pressed", [(0, 1), (1,)], ids=str)
def test_ctrl_c_stops_all_processes_at_one_step(data, tmp_path, pressed):
    """A terminal interrupts all processes that it runs; `kill -INT` may do one."""
    running = start(data, tmp_path, TWO_BY_TWO, processes=2, steps=4000)
    wait_for_step(tmp_path, 4, running)
    for process in pressed:
        running[process].send_signal(signal.SIGINT)
    outputs = finish(running)
    said = ["saving after this step; again: end at once" in out for out in outputs]
    assert said == [process in pressed for process in (0, 1)]
    (last,) = sorted(map(int, os.listdir(tmp_path / "checkpoints")))[-1:]
    assert 4 < last < 4000 and len(losses(tmp_path)) == last


def same_state(*workdirs):
    """Returns True if the newest checkpoints are the same to the bit."""
    states = []
    for workdir in workdirs:
        checkpoints = Checkpoints(workdir)
        abstract = jax.eval_shape(functools.partial(dit_init, mesh_run.CFG))
        states.append(checkpoints.restore(abstract)[0])
        checkpoints.close()
    return all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, states), strict=True)
    )

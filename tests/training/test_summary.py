"""The summary of a training: its numbers are those of the data and the state."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.models.dit.config import dit_config
from soraxla.models.dit.flops import train_flops
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule_index import ScheduleIndex
from soraxla.parallel.mesh import MeshConfig, make_mesh
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import Experiment, LoopConfig
from soraxla.training.summary import (
    count,
    device_bytes,
    differences,
    ending,
    indented,
    packed_work,
    program_bytes,
    setting_lines,
    step_memory,
    summary,
    window_work,
)
from tests.training import toy


@pytest.fixture
def cfg():
    return DiTTrainingConfig(
        step=DiTStepConfig(model=dit_config("debug")),
        pack=PackConfig(
            row_length=32, text_length=16, max_segments=4, caption_dropout=0.0
        ),
        loop=LoopConfig(steps=3),
        batch_rows=2,
    )


def index(samples=10, *, t=1, h=4, w=8, text=3):
    numbers = {"t": t, "h": h, "w": w, "text_length": text}
    columns = {k: np.full(samples, v, np.int32) for k, v in numbers.items()}
    sizes = {"fps": 8.0, "height": 8 * h, "width": 8 * w}
    columns |= {k: np.full(samples, v) for k, v in sizes.items()}
    names = {f.name for f in dataclasses.fields(ScheduleIndex)}
    columns = {k: v for k, v in columns.items() if k in names}
    return ScheduleIndex(**columns, empty_text_length=1, patch=(1, 2, 2))


def test_the_work_of_a_step_is_that_of_full_rows(cfg):
    """Four clips of 8 tokens fill a row of 32."""
    work = packed_work(cfg, index())
    assert (work.amount, work.room, work.unit) == (64, 64, "tokens")
    assert work.flops == train_flops(cfg.step.model, [8] * 8, [3] * 8)


def test_padding_is_not_counted(cfg):
    """Three clips of 9 tokens leave 5 of a row's 32 empty."""
    work = packed_work(cfg, index(h=6, w=6))
    assert work.room == 64
    assert work.amount == pytest.approx(54, abs=1)  # the window's last row may be less


def test_the_pixels_of_a_vae_step_are_the_mean_over_shapes():
    shapes = (
        WindowShape(frames=1, height=8, width=8, batch=2, weight=3.0),
        WindowShape(frames=5, height=8, width=16, batch=1, weight=1.0),
    )
    work = window_work(WindowConfig(shapes=shapes))
    assert work.amount == 0.75 * 128 + 0.25 * 640
    assert work.flops is work.room is None


def test_differences_name_both_values():
    preset = {"loop": {"steps": 5}, "step": {"lora": None, "seed": 0}}
    config = {"loop": {"steps": 3}, "step": {"lora": {"rank": 4}, "seed": 0}}
    assert differences(preset, preset) == []
    assert differences(preset, config) == [
        "loop.steps = 3 (preset: 5)",
        "step.lora.rank = 4 (preset: None)",
    ]
    assert setting_lines(config) == [
        "loop.steps = 3",
        "step.lora.rank = 4",
        "step.seed = 0",
    ]
    assert indented("title", []) == []
    assert indented("title", ["a"]) == ["title", "  a"]


def test_memory_is_of_one_device():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    rows = jax.sharding.PartitionSpec("fsdp")
    cut = jax.sharding.NamedSharding(mesh, rows)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tree = [
        jax.ShapeDtypeStruct((8, 3), np.float32, sharding=cut),
        jax.ShapeDtypeStruct((5,), np.int8, sharding=whole),
    ]
    assert (count(tree), device_bytes(tree)) == (29, 4 * 3 * 4 + 5)


def test_the_memory_of_a_step_is_its_program_s():
    """The state, which is donated, the batch, and what is computed between them."""
    job = toy.job()
    needed = program_bytes(job.compiled_step())
    assert needed >= device_bytes(job.state) + 4 * toy.WIDTH
    assert step_memory(job) == [
        f"        a step needs {needed / 1024:.3g} KiB a device"
    ]


def test_a_step_that_does_not_fit_says_so(monkeypatch):
    def refuse(job):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(Experiment, "compiled_step", refuse)
    said = "RESOURCE_EXHAUSTED: 20 GiB of 16\npages of buffers"
    (line,) = step_memory(toy.job())
    assert line.endswith("does not fit a device: RESOURCE_EXHAUSTED: 20 GiB of 16")
    said = "INTERNAL: a bug"
    with pytest.raises(jax.errors.JaxRuntimeError):
        step_memory(toy.job())


def test_the_summary_says_what_is_trained():
    settings = {"kind": "dit", "step": {"model": {"dtype": "bfloat16"}}}
    job = toy.job(settings=settings)
    work = window_work(
        WindowConfig(shapes=(WindowShape(frames=1, height=1, width=1, batch=9),))
    )
    lines = summary(job, LoopConfig(steps=5, checkpoint_every=2), "DATA", work)
    text = "\n".join(lines)
    assert f"dit, {toy.WIDTH} parameters, bfloat16" in text
    assert "1 x cpu: data 1 x fsdp 1" in text
    assert "9 px, in the mean" in text and "data    DATA" in text
    held = device_bytes(job.state)
    assert held >= 4 * 4 * toy.WIDTH  # parameters, EMA, two moments
    assert f"{held / 1024:.3g} KiB a device" in text
    assert "5, a checkpoint every 2" in text


def test_the_end_names_the_next_command(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    place, command = ending("dit", tmp_path, 5, 5)
    assert place == f"{tmp_path}: step 5 of 5; checkpoints"
    assert command.startswith(f"next: soraxla generate --checkpoint {tmp_path} ")
    assert f"--vae {tmp_path}" in ending("vae", tmp_path, 5, 5)[1]
    assert "same command again" in ending("dit", tmp_path, 4, 5)[1]

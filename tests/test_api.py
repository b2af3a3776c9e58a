"""The Python API: lazy, checked, on all devices, and interrupted without loss."""

import base64
import inspect
import json
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import soraxla
from data_pipelines.prepare import prepare
from soraxla.checkpoints.model_folder import save_folder
from soraxla.core.errors import UserError
from soraxla.generation.pipeline import Pipeline
from soraxla.generation.request import Request
from soraxla.generation.video import Video, save
from soraxla.media.read import read_clip
from soraxla.media.write import write_video
from soraxla.parallel.mesh import one_device
from soraxla.tools.prepare import prepare_dataset
from soraxla.training.loop import Experiment
from soraxla.training.metrics_log import MetricsLog
from soraxla.training.run import Run, open_experiment
from tests import tiny
from tests.generation import fake

TINY = {
    "step.model.latent_channels": 4,
    "step.model.text_width": 16,
    "step.model.dtype": "float32",
    "step.model.layers": 1,
    "step.model.text_refiner_layers": 0,
    "pack.row_length": 64,
    "pack.text_length": 32,
    "pack.max_segments": 4,
    "loop.steps": 50,
}


def test_import_loads_no_other_package():
    code = (
        "import sys; old = {*sys.modules}; import soraxla; print(*{*sys.modules} - old)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"soraxla"}


def test_the_types_are_imported_when_named():
    assert soraxla.Run is Run and soraxla.Video is Video
    assert all(hasattr(soraxla, name) for name in soraxla.__all__)
    with pytest.raises(AttributeError, match="'Vidoe'"):
        soraxla.Vidoe  # noqa: B018


def test_prepare_has_the_defaults_of_the_functions_it_calls():
    ours, outer, inner = (
        {k: v.default for k, v in inspect.signature(function).parameters.items()}
        for function in (soraxla.prepare, prepare_dataset, prepare)
    )
    theirs = inner | outer
    assert ours == {name: theirs[name] for name in ours}


def test_a_configuration_is_checked_at_once():
    cfg = soraxla.config("dit:debug", {"step.optim.ema_decay": 0.5}, batch_rows=4)
    assert (cfg.step.optim.ema_decay, cfg.batch_rows) == (0.5, 4)
    with pytest.raises(UserError, match=r"did you mean 'step\.optim\.ema_decay'"):
        soraxla.config("dit:debug", {"step.optim.ema_deacy": 0.5})
    with pytest.raises(UserError, match="batch_rows is 0, expected at least 1"):
        soraxla.config("dit:debug", batch_rows=0)
    with pytest.raises(UserError, match=r"loop\.steps is 9"):
        soraxla.config("vae:debug", {"loop.steps": 9, "step.optim.decay_steps": 5})
    assert soraxla.config("finetune_wan:lora").step.lora.rank > 0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A clip of 5 frames, 32×32, and a picture, with the tiny VAE."""
    folder = tmp_path_factory.mktemp("api")
    loaded = tiny.loaded_vae()
    save_folder(folder / "vae", loaded.params, loaded.config)
    (folder / "media").mkdir()
    y, x = np.mgrid[:32, :32] * 4
    frames = [np.stack([x + 5 * t, y, 0 * x], -1).astype(np.uint8) for t in range(5)]
    write_video(folder / "media" / "a.mp4", frames, 12)
    write_video(folder / "media" / "b.png", frames[:1], 1)
    (folder / "media" / "a.txt").write_text("colours that drift")
    (folder / "media" / "b.txt").write_text("colours that stand still")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soraxla.tools.prepare.encode_clips", fake.encode_clips)
        made = soraxla.prepare(
            folder / "media",
            folder / "data",
            vae=folder / "vae",
            text_encoder="hashed:16",
        )
    assert (len(made), made.card["latent_channels"]) == (2, 4)
    return folder / "data"


def test_a_training_has_all_devices_or_those_of_its_mesh(dataset, tmp_path):
    cfg = soraxla.config("dit:debug", TINY, batch_rows=8).to_dict()
    where = {"data": dataset, "workdir": tmp_path}
    experiment = open_experiment(cfg, **where).experiment
    assert experiment.mesh.size == len(jax.devices()) == 8
    cfg["mesh"] = {"data": 4, "fsdp": 2}
    experiment = open_experiment(cfg, **where).experiment
    assert dict(experiment.mesh.shape) | {"data": 4, "fsdp": 2} == experiment.mesh.shape
    experiment = open_experiment(cfg, **where, mesh=one_device()).experiment
    assert experiment.mesh.size == 1


def zeros(job):
    """Stands for `Experiment.start`, whose program takes long to compile."""
    return jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), job.state)


@jax.jit
def counted(state, batch):
    """Takes the place of a compiled step and only counts."""
    names = ("loss", "grad_norm", "skipped", "skipped_in_a_row")
    metrics = {name: state.skipped for name in names}
    tokens = (batch.segment_ids > 0).sum()
    return state._replace(step=state.step + 1), {**metrics, "tokens": tokens}


@pytest.mark.slow
def test_an_interrupted_training_is_saved_and_loads(dataset, tmp_path, monkeypatch):
    """SIGINT while step 2 is logged: the loop has made step 3, and stops after it."""
    write = MetricsLog.write

    def interrupted(log, step, metrics):
        write(log, step, metrics)
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(MetricsLog, "write", interrupted)
    monkeypatch.setattr(Experiment, "start", zeros)
    monkeypatch.setattr(Experiment, "step_fn", lambda job: counted)
    before = signal.getsignal(signal.SIGINT)
    cfg, mesh = soraxla.config("dit:debug", TINY, batch_rows=1), one_device()
    run = soraxla.train(cfg, data=dataset, workdir=tmp_path / "run", mesh=mesh)
    assert signal.getsignal(signal.SIGINT) is before
    assert (run.step, run.workdir) == (3, tmp_path / "run")
    metrics = run.metrics()
    assert metrics["step"].tolist() == [1, 2, 3]
    assert np.isfinite(metrics["loss"]).all()

    pipe = soraxla.load(run.workdir, mesh=mesh)
    monkeypatch.setattr(Pipeline, "generate_each", grey)
    video = pipe.generate("a dot")  # as the median of the training data
    assert (video.frames.shape, video.fps) == ((5, 32, 32, 3), 12.0)
    one, two = pipe.generate(["a dot", "a line"], size=(32, 16), frames=5, fps=8.0)
    assert one.frames.shape == (5, 16, 32, 3) and two.fps == 8.0
    assert (one.request.prompt, two.request.prompt) == ("a dot", "a line")
    with pytest.raises(UserError, match="unknown setting 'stpes'"):
        pipe.generate("a dot", stpes=1)


def grey(pipeline, requests, settings):
    """Stands for `Pipeline.generate_each`; the last request is done first."""
    assert jax.sharding.get_mesh() == pipeline.mesh
    for place, request in reversed(list(enumerate(requests))):
        yield place, np.zeros((request.frames, request.height, request.width, 3), "u1")


def test_the_shipped_model_has_its_own_defaults(monkeypatch):
    monkeypatch.setattr(Pipeline, "generate_each", grey)
    video = soraxla.load(mesh=one_device()).generate("a red ball")
    assert (video.frames.shape, video.fps) == ((33, 64, 64, 3), 16.0)


def test_the_second_interrupt_is_immediate():
    from soraxla.parallel.preemption import Preemption

    with Preemption(interrupts=True) as preemption:
        signal.raise_signal(signal.SIGINT)
        assert preemption.reached(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_metrics_are_columns_and_the_newest_sheet_is_the_preview(tmp_path):
    run = Run(workdir=tmp_path, step=2)
    evaluation = {"value": 1.5, "low": 1.0, "high": 2.0, "n": 3}
    rows = [
        {"step": 1, "loss": 0.5},
        {"step": 1, "eval/val_loss/loss": evaluation},
        {"step": 2, "loss": None, "psnr": 30.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    metrics = run.metrics()
    assert {name: column.dtype for name, column in metrics.items()} == {
        "step": np.int64,
        "loss": np.float64,
        "eval/val_loss/loss": np.float64,
        "psnr": np.float64,
    }
    np.testing.assert_array_equal(metrics["loss"], [0.5, np.nan])
    np.testing.assert_array_equal(metrics["psnr"], [np.nan, 30.0])
    np.testing.assert_array_equal(metrics["eval/val_loss/loss"], [1.5, np.nan])
    with pytest.raises(UserError, match=r"set loop\.evaluators\.preview\.every"):
        run.preview()
    (tmp_path / "previews").mkdir()
    for step, grey in ((900, 10), (1000, 20)):
        sheet = Image.new("L", (4, 4), grey)
        sheet.save(tmp_path / "previews" / f"step_{step:07d}.png")
    assert run.preview().getpixel((0, 0)) == 20


@pytest.mark.parametrize(("frames", "suffix"), [(3, "mp4"), (1, "png")])
def test_a_notebook_shows_the_file_that_is_saved(tmp_path, frames, suffix):
    request = Request(prompt="grey", width=32, height=16, frames=frames, fps=8.0)
    pixels = np.full((frames, 16, 32, 3), 90, np.uint8)
    video = Video(frames=pixels, fps=8.0, request=request)
    found = re.search(rf'/{suffix};base64,([^"]*)"', video._repr_html_())
    (tmp_path / f"shown.{suffix}").write_bytes(base64.b64decode(found[1]))
    save(video, tmp_path / f"saved.{suffix}")
    shown, saved = (read_clip(tmp_path / f"{n}.{suffix}") for n in ("shown", "saved"))
    np.testing.assert_array_equal(shown, saved)
    assert shown.shape == pixels.shape and np.abs(shown - 90.0).max() < 4

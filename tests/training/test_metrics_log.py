"""The log of a training, and the share of the devices' peak in it."""

import dataclasses
import io
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from soraxla.evals.metrics.metric import Metric
from soraxla.media.write import write_video
from soraxla.training import loop
from soraxla.training.loop import LoopConfig, train
from soraxla.training.metrics_log import METRICS, MetricsLog
from tests.training import toy


def records(workdir):
    lines = (workdir / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_mfu_is_the_share_of_the_peak_in_log_and_bar(tmp_path, capsys):
    log = MetricsLog(tmp_path, first_step=0, steps=2, unit="tokens", peak_rate=1e5)
    log.write(1, {"loss": 0.5, "tokens": 30})
    log._bar.refresh()
    log.close()
    (record,) = records(tmp_path)
    assert record["mfu"] == record["tokens_per_second"] / 1e5 > 0
    assert f"tokens/s, MFU {record['mfu']:.0%}" in capsys.readouterr().err


def test_skipped_steps_are_in_the_bar_and_not_in_the_board(tmp_path, capsys, caplog):
    """TensorBoard's writer would print a line for each NaN."""
    log = MetricsLog(tmp_path, first_step=0, steps=2, unit="tokens")
    log.write(1, {"loss": float("nan"), "tokens": 30, "skipped": 1})
    log._bar.refresh()
    log.close()
    out, err = capsys.readouterr()
    assert ", 1 skipped" in err
    assert "nan" not in (out + caplog.text).lower() and records(tmp_path)


@pytest.mark.parametrize(
    ("peak", "unit_flops", "logged"),
    [(1e12, 4.0, True), (1e12, None, False), (None, 4.0, False)],
)
def test_a_training_logs_mfu_where_peak_and_work_are_known(
    tmp_path, monkeypatch, peak, unit_flops, logged
):
    monkeypatch.setattr(loop, "peak_flops", lambda device: peak)
    job = dataclasses.replace(toy.job(), unit_flops=unit_flops)
    assert job.peak_rate == (2.5e11 if logged else None)
    train(job, LoopConfig(steps=1), tmp_path)
    assert all(("mfu" in record) == logged for record in records(tmp_path))


class FakeWandb(types.ModuleType):
    """Keeps what its client would send."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **settings):
        self.started.append(settings)
        return self

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self):
        self.finished += 1


def test_wandb_gets_all_metrics_in_one_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for steps in (1, 2):
        train(toy.job(), LoopConfig(steps=steps, wandb="clips"), tmp_path)
    first, second = fake.started
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert first["project"] == "clips" and first["config"]["kind"] == "toy"
    assert [step for step, _ in fake.logged] == [1, 2] and fake.finished == 2
    for step, numbers in fake.logged:
        (record,) = [r for r in records(tmp_path) if r["step"] == step]
        assert numbers == record


def test_an_evaluation_has_its_interval_in_wandb(tmp_path):
    fake = FakeWandb()
    log = MetricsLog(tmp_path, first_step=0, steps=2, unit="tokens", wandb=fake)
    log.write_evaluation(3, "val_loss", {"loss": Metric(0.5, 0.4, 0.7, 9)})
    log.close()
    name = "eval/val_loss/loss"
    assert fake.logged == [(3, {name: 0.5, f"{name}/low": 0.4, f"{name}/high": 0.7})]


@pytest.mark.parametrize(("suffix", "frames"), [("png", 1), ("webp", 3)])
def test_tensorboard_shows_pictures_and_plays_videos(tmp_path, suffix, frames):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (frames, 16, 32, 3), np.uint8)
    write_video(tmp_path / f"shown.{suffix}", video, 8.0)
    log = MetricsLog(tmp_path, first_step=0, steps=2, unit="tokens")
    log.write_picture(2, "preview", tmp_path / f"shown.{suffix}")
    log.close()
    [file] = (tmp_path / "tensorboard").iterdir()
    events = file.read_bytes()
    assert b"eval/preview" in events
    start = events.index(b"GIF89a" if frames > 1 else b"\x89PNG")
    with Image.open(io.BytesIO(events[start:])) as shown:
        assert shown.size == (32, 16) and getattr(shown, "n_frames", 1) == frames


def test_without_the_client_a_training_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'soraxla\[wandb\]'"):
        train(toy.job(), LoopConfig(steps=1, wandb="clips"), tmp_path)


@pytest.mark.slow
def test_the_client_runs_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(toy.job(), LoopConfig(steps=2, wandb="clips"), tmp_path)
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))

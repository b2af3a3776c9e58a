"""The log of a training, and the share of the devices' peak in it."""

import dataclasses
import json

import pytest

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

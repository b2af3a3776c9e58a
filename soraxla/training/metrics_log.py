"""Numbers of a run: a progress line, JSON lines, TensorBoard, Weights & Biases."""

import io
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.proto import summary_pb2
from tqdm import tqdm

from soraxla.evals.metrics.metric import Metric
from soraxla.files.atomic_file import atomic_file

METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes one record a step; a resumed run drops the records it will write again.

    Where `peak_rate`, the units per second of the devices at their peak, is known, the
    share of it that a step reaches is its `mfu` (arXiv 2204.02311, appendix B).
    """

    def __init__(
        self,
        workdir: Path,
        *,
        first_step: int,
        steps: int,
        unit: str,
        peak_rate: float | None = None,
        wandb: Any = None,
    ):
        self._wandb = wandb  # a run of its client; None logs nothing there
        self._path = workdir / METRICS
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= first_step]
            with atomic_file(self._path) as partial:
                partial.write_text("".join(x + "\n" for x in kept), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=first_step + 1
        )
        self._unit = unit
        self._peak_rate = peak_rate
        self._bar = tqdm(
            total=steps, initial=first_step, unit="step", mininterval=1, leave=True
        )
        self._last = time.monotonic()
        self._rate = 0.0

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Writes one step's numbers; that under `unit` counts its tokens or pixels."""
        now = time.monotonic()
        rate = metrics[self._unit] / max(now - self._last, 1e-9)
        self._last = now
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        record = {"step": step, f"{self._unit}_per_second": rate, **metrics}
        if self._peak_rate:
            record["mfu"] = rate / self._peak_rate
        self._file.write(json.dumps(_finite(record)) + "\n")
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(record, step=step)
        postfix = f"loss {metrics['loss']:.4f}, {self._rate:,.0f} {self._unit}/s"
        if self._peak_rate:
            postfix += f", MFU {self._rate / self._peak_rate:.0%}"
        if skipped := metrics.get("skipped"):
            postfix += f", {skipped:,} skipped"
        self._bar.set_postfix_str(postfix, refresh=False)
        self._bar.update(1)

    def write_evaluation(
        self, step: int, evaluator: str, metrics: Mapping[str, Metric]
    ) -> None:
        """Writes an evaluator's metrics as `eval/EVALUATOR/METRIC`, in one record.

        A metric is {"value", "low", "high", "n"} in the JSON lines. TensorBoard and W&B
        have `KEY`, `KEY/low` and `KEY/high`.
        """
        if not metrics:
            return
        record: dict[str, Any] = {"step": step}
        scalars: dict[str, float] = {}
        for name, metric in metrics.items():
            key = f"eval/{evaluator}/{name}"
            record[key] = _finite(asdict(metric))
            ends = {f"{key}/low": metric.low, f"{key}/high": metric.high}
            scalars |= {key: metric.value} | ends
        for key, value in scalars.items():
            if math.isfinite(value):
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)
        self._file.write(json.dumps(record) + "\n")

    def write_picture(self, step: int, evaluator: str, file: Path) -> None:
        """Writes a picture or a video into TensorBoard, under `eval/EVALUATOR`.

        TensorBoard plays no format of videos but GIF, as a picture.
        """
        with Image.open(file) as shown:
            moves = getattr(shown, "is_animated", False)
            stream, kind = io.BytesIO(), "GIF" if moves else "PNG"
            shown.save(stream, kind, **({"save_all": True, "loop": 0} if moves else {}))
            size = {"width": shown.width, "height": shown.height}
        proto: Any = summary_pb2  # its names come from a compiler
        image = proto.Summary.Image(
            encoded_image_string=stream.getvalue(), colorspace=3, **size
        )
        value = proto.Summary.Value(tag=f"eval/{evaluator}", image=image)
        assert self._board.file_writer is not None
        self._board.file_writer.add_summary(proto.Summary(value=[value]), step)

    def restart_clock(self) -> None:
        """Leaves the time since the last step out of the next step's rate."""
        self._last = time.monotonic()

    def flush(self) -> None:
        """Flushes all records to disk."""
        # A bucket that is mounted as a folder stores a file when it is closed.
        self._file.close()
        self._file = self._path.open("a", encoding="utf-8")
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()
        self._bar.close()
        if self._wandb is not None:
            self._wandb.finish()


class NoLog:
    """The log of a process that leaves writing to another."""

    def write(self, step: int, metrics: dict[str, Any]) -> None: ...
    def write_evaluation(
        self, step: int, evaluator: str, metrics: Mapping[str, Metric]
    ) -> None: ...
    def write_picture(self, step: int, evaluator: str, file: Path) -> None: ...
    def restart_clock(self) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record without NaN, which JSON lacks; a skipped loss is null."""
    return {k: v if math.isfinite(v) else None for k, v in record.items()}


def _step_of(line: str) -> float | int:
    """Returns the record's step; a line cut short by a kill counts as unwritten."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")

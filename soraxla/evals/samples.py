"""Metrics of the clips that a training in progress generates."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_pipelines.dataset import Dataset
from soraxla.core.errors import UserError
from soraxla.evals.choice import (
    Networks,
    chosen_metrics,
    load_networks,
    metric_of_rows,
)
from soraxla.evals.evaluator import EvaluationContext, Evaluator, Metric
from soraxla.evals.metrics.metric import (
    Clip,
    Rows,
    SetMetric,
    merged_rows,
    rows_of,
    stacked,
)
from soraxla.evals.training_pipeline import decoded, pipeline_of
from soraxla.files.atomic_file import atomic_file
from soraxla.generation.request import Request, SamplingConfig
from soraxla.parallel.multihost import is_main


@dataclass(frozen=True, kw_only=True)
class Samples(Evaluator):
    """Metrics of clips that are generated like held-out ones, with fixed noise.

    The held-out clips, decoded, are the reference. Their numbers are kept in the folder
    `samples` of the training.

    Attributes:
        clips: their number; all held-out clips if these are fewer.
        metrics: names of `soraxla.evals.choice`.
        features: networks and their weights, NAME:FOLDER each.
        steps: of the sampler.
        cfg_scale: classifier-free guidance; 1 is none, at half the cost.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dit",)
    needs_held_out: ClassVar[bool] = True

    clips: int = 256
    metrics: tuple[str, ...] = ("frame_change",)
    features: tuple[str, ...] = ()
    steps: int = 20
    cfg_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clips", "steps"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"evaluators.samples.{name} is {getattr(self, name)}, expected at "
                    "least 1"
                )
        for name in self.metrics:
            if metric_of_rows(name).needs == "pairs":
                raise UserError(
                    f"evaluators.samples.metrics has {name!r}, which compares a clip "
                    "with its reference, but these clips have none; leave it out"
                )

    def run(self, context: EvaluationContext) -> dict[str, Metric]:
        """Returns the metrics by their names in reports."""
        held_out = context.held_out
        assert held_out is not None
        networks = _networks(self.metrics, self.features)
        chosen = chosen_metrics(self.metrics, networks)
        count = min(self.clips, len(held_out))
        samples = np.linspace(0, len(held_out) - 1, count).round().astype(int).tolist()
        pipeline, requests = pipeline_of(context, held_out, samples)
        file = context.workdir / "samples" / f"{_key(held_out, samples, networks)}.npz"
        of_sets = {n: m for n, m in chosen.items() if m.needs == "reference"}
        if of_sets and not file.exists():
            clips = decoded(pipeline, held_out, samples, requests)
            rows = _rows(of_sets, enumerate(clips), requests)
            if is_main():
                _save(file, rows)
        else:
            rows = _read(file) if of_sets else {}
        settings = SamplingConfig(steps=self.steps, cfg_scale=self.cfg_scale)
        videos = pipeline.generate_each(requests, settings)
        found = _rows(chosen, videos, requests)
        return {
            name: metric.compute(found[name], rows.get(name))
            for name, metric in chosen.items()
        }


@lru_cache(maxsize=2)
def _networks(metrics: tuple[str, ...], features: tuple[str, ...]) -> Networks:
    return load_networks(metrics, features)


def _key(dataset: Dataset, samples: list[int], networks: Networks) -> str:
    """Returns a hash of all that the numbers of the held-out clips depend on."""
    sources = dataset.sources()
    chosen = [sources[i] for i in samples]
    parts = [dataset.card, chosen, samples, networks.hashes()]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rows(
    metrics: Mapping[str, SetMetric],
    clips: Iterable[tuple[int, np.ndarray]],
    requests: Sequence[Request],
) -> dict[str, Rows]:
    parts = []
    for i, frames in clips:
        clip = Clip(
            name=f"{i:05d}",
            frames=frames,
            prompt=requests[i].prompt,
            fps=requests[i].fps,
        )
        parts.append(rows_of(metrics, clip))
    return merged_rows(metrics, parts)


def _save(file: Path, rows: Mapping[str, Rows]) -> None:
    file.parent.mkdir(exist_ok=True)
    arrays = {name: stacked(each) for name, each in rows.items()}
    with atomic_file(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # pyright: ignore


def _read(file: Path) -> dict[str, Rows]:
    with np.load(file, allow_pickle=False) as stored:
        return {
            name: {f"{i:05d}": row for i, row in enumerate(stored[name])}
            for name in stored
        }

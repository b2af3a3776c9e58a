"""The comparison of two runs, clip by clip, and the file of their rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soraxla.core.errors import UserError
from soraxla.evals.choice import Networks, chosen_metrics
from soraxla.evals.evaluation import Evaluation
from soraxla.evals.metrics.metric import (
    Metric,
    Rows,
    SetMetric,
    interval,
    resamples,
    stacked,
)


def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Metric]:
    """Returns the differences of two runs' metrics, second − first, with intervals.

    Runs of one metric are resampled together: the same clips where the names agree, so
    that the difference of two models on the same prompts is paired.

    Args:
        one, other: `read_run` of two folders.

    Raises:
        UserError: they share no metric, or the metrics differ in features or clips.
    """
    shared = [name for name in one["metrics"] if name in other["metrics"]]
    if not shared:
        raise UserError(
            f"the runs share no metric: {', '.join(one['metrics'])} and "
            f"{', '.join(other['metrics'])}; measure both with the same --metrics"
        )
    if one["extractors"] != other["extractors"]:
        raise UserError(
            "the runs have other feature weights, whose distances cannot be compared; "
            "measure both with the same --features"
        )
    return {name: _difference(name, one, other) for name in shared}


def _difference(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Metric:
    metric: SetMetric = one["metrics"][name]
    rows = [run["rows"][name] for run in (one, other)]
    if rows[0].keys() != rows[1].keys():
        raise UserError(
            f"the runs of {name!r} have clips of other names, expected the same "
            "prompts; generate both sets from one prompts file"
        )
    first, second = (metric.prepared(stacked(each)) for each in rows)
    references = [run["reference_rows"].get(name) for run in (one, other)]
    a, b = (
        None if rows is None else metric.prepared(stacked(rows)) for rows in references
    )
    value = metric.statistic(second, b) - metric.statistic(first, a)
    draws = []
    for picks, others in resamples(len(first), 0 if a is None else len(a)):
        pair = (
            metric.statistic(x[picks], None if r is None else r[others])
            for x, r in ((first, a), (second, b))
        )
        before, after = pair
        draws.append(after - before)
    low, high = interval(value, np.array(draws))
    return Metric(value, low, high, len(first))


def write_rows(path: Path, evaluation: Evaluation) -> None:
    """Writes the rows of all clips, from which runs are compared."""
    arrays = {
        f"{kind}:{name}": stacked(rows)
        for kind, each in (
            ("generated", evaluation.rows),
            ("reference", evaluation.reference_rows),
        )
        for name, rows in each.items()
    }
    names = {
        f"names:{kind}:{name}": np.array(sorted(rows))
        for kind, each in (
            ("generated", evaluation.rows),
            ("reference", evaluation.reference_rows),
        )
        for name, rows in each.items()
    }
    np.savez_compressed(path, **arrays, **names)  # pyright: ignore


def read_run(folder: Path) -> dict[str, Any]:
    """Returns the metrics and rows of a folder that `soraxla evaluate run` wrote.

    Raises:
        UserError: it is no such folder.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        with np.load(folder / "rows.npz", allow_pickle=False) as stored:
            arrays = dict(stored)
        names, extractors = manifest["metrics"], manifest["extractors"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}: is no folder of `soraxla evaluate run`; name one"
        ) from None
    rows: dict[str, dict[str, Rows]] = {"generated": {}, "reference": {}}
    for key, array in arrays.items():
        kind, _, name = key.partition(":")
        if kind in rows:
            clips = arrays[f"names:{key}"].tolist()
            rows[kind][name] = dict(zip(clips, map(np.asarray, array), strict=True))
    known = [_Named(name=n, sha256=sha, dimension=0) for n, sha in extractors.items()]
    networks = Networks(extractors=known, others={"clip": None, "vgg": None})
    return {
        "metrics": chosen_metrics(names, networks),
        "extractors": extractors,
        "rows": rows["generated"],
        "reference_rows": rows["reference"],
    }


@dataclass(frozen=True, kw_only=True)
class _Named:
    """An extractor of which only the rows are left."""

    name: str
    sha256: str
    dimension: int

    def __call__(self, frames: Any) -> Any:
        raise NotImplementedError

"""The evaluation of a set of clips: metrics, the files of a run, and comparisons."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.evals.clip_sets import (
    ClipSet,
    check_pairs,
    differences,
    open_set,
    readable,
)
from soraxla.evals.features import load_features
from soraxla.evals.metrics.flicker import Flicker
from soraxla.evals.metrics.frame_change import FrameChange
from soraxla.evals.metrics.frechet import Frechet
from soraxla.evals.metrics.metric import (
    LEVEL,
    Clip,
    Extractor,
    Metric,
    Rows,
    SetMetric,
    interval,
    resamples,
    stacked,
)
from soraxla.evals.metrics.mmd import MMD
from soraxla.evals.metrics.psnr import PSNR
from soraxla.evals.metrics.ssim import SSIM

FORMAT = 1

METRICS: dict[str, Callable[[], SetMetric]] = {
    "psnr": PSNR,
    "ssim": SSIM,
    "flicker": Flicker,
    "frame_change": FrameChange,
}
FEATURE_METRICS: dict[str, Callable[[Extractor], SetMetric]] = {
    "frechet": lambda extractor: Frechet(extractor=extractor),
    "mmd": lambda extractor: MMD(extractor=extractor),
    "cmmd": lambda extractor: MMD(extractor=extractor, kernel="gaussian"),
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A measured set.

    Attributes:
        metrics: the metrics by name; those of features are NAME/EXTRACTOR.
        values: the value of each metric.
        rows: each metric's rows of generated clips.
        reference_rows: those of reference clips, for metrics of two sets.
        sets: {name: {sha256, n}}.
        extractors: {name: sha256 of the weights}.
        notes: sentences for the reader: differences of the sets, skipped clips, too few
            samples.
    """

    metrics: Mapping[str, SetMetric]
    values: Mapping[str, Metric]
    rows: Mapping[str, Rows]
    reference_rows: Mapping[str, Rows]
    sets: Mapping[str, Mapping[str, Any]]
    extractors: Mapping[str, str]
    notes: Sequence[str]


def chosen_metrics(
    names: Sequence[str], extractors: Sequence[Extractor]
) -> dict[str, SetMetric]:
    """Returns the metrics of the names, one for each extractor where they use one.

    Raises:
        UserError: an unknown or repeated name, or a metric of features without any.
    """
    chosen: dict[str, SetMetric] = {}
    for name in names:
        if name not in METRICS and name not in FEATURE_METRICS:
            known = {**METRICS, **FEATURE_METRICS}
            raise UserError(f"unknown metric {name!r}{nearest(name, known)}")
        if name in FEATURE_METRICS and not extractors:
            raise UserError(f"metric {name!r} needs --features, such as clip:FOLDER")
        made = (
            {name: METRICS[name]()}
            if name in METRICS
            else {f"{name}/{e.name}": FEATURE_METRICS[name](e) for e in extractors}
        )
        if chosen.keys() & made.keys():
            raise UserError(f"metric {name!r} is named twice; name it once")
        chosen |= made
    return chosen


def evaluate(
    generated: Path,
    reference: Path | None = None,
    *,
    metrics: Sequence[str],
    features: Sequence[str] = (),
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measures the clips of a folder, one at a time.

    Args:
        reference: the folder of the other set, or of the clips' references.
        metrics: names of `METRICS` and `FEATURE_METRICS`.
        features: extractors, see `features.load_features`.
        told: is called with the numbers of clips done and in all.

    Raises:
        UserError: an unknown name, a missing folder, weights or reference, or sets that
            do not fit a metric.
    """
    extractors = [load_features(spec) for spec in features]
    chosen = chosen_metrics(metrics, extractors)
    needy = [name for name, metric in chosen.items() if metric.needs]
    if needy and reference is None:
        raise UserError(
            f"metric {needy[0]!r} needs --reference; name a folder of clips"
        )
    paired = any(metric.needs == "pairs" for metric in chosen.values())
    sets, notes = _opened(generated, reference if needy else None, paired=paired)
    other = sets.get("reference")
    of_sets = {n: m for n, m in chosen.items() if m.needs == "reference"}
    total = len(sets["generated"].files)
    total += len(other.files) if other is not None and of_sets else 0
    count = iter(range(1, total + 1))

    def advance() -> None:
        told(next(count), total)

    rows = _rows(chosen, sets["generated"], other if paired else None, advance)
    reference_rows = {}
    if of_sets and other is not None:
        reference_rows = _rows(of_sets, other, None, advance)
        notes += _too_few(of_sets, rows, reference_rows)
    return Evaluation(
        metrics=chosen,
        values={
            name: metric.compute(rows[name], reference_rows.get(name))
            for name, metric in chosen.items()
        },
        rows=rows,
        reference_rows=reference_rows,
        sets={
            kind: {"folder": str(x.folder), "sha256": x.sha256, "n": len(x.files)}
            for kind, x in sets.items()
        },
        extractors={extractor.name: extractor.sha256 for extractor in extractors},
        notes=notes,
    )


def _opened(
    generated: Path, reference: Path | None, *, paired: bool
) -> tuple[dict[str, ClipSet], list[str]]:
    """Returns the sets without damaged files, and notes on what they lack."""
    sets, notes = {}, []
    for kind, folder in (("generated", generated), ("reference", reference)):
        if folder is None:
            continue
        sets[kind], skipped = readable(open_set(folder))
        notes += [f"skipped, since it is damaged: {why}" for why in skipped.values()]
        if not sets[kind].files:
            raise UserError(f"{folder}: no clip can be read; {notes[-1]}")
    if reference is not None:
        notes += differences(*sets.values())
        if paired:
            check_pairs(*sets.values())
    return sets, notes


def _rows(
    metrics: Mapping[str, SetMetric],
    clips: ClipSet,
    reference: ClipSet | None,
    advance: Callable[[], None],
) -> dict[str, Rows]:
    parts: dict[str, list[Rows]] = {name: [] for name in metrics}
    for name in sorted(clips.files):
        pair = None if reference is None else reference.read(name)
        clip = Clip(name=name, frames=clips.read(name), reference=pair)
        for metric in metrics:
            parts[metric].append(metrics[metric].update({}, [clip]))
        advance()
    return {metric: metrics[metric].merge(*found) for metric, found in parts.items()}


def _too_few(
    metrics: Mapping[str, SetMetric],
    rows: Mapping[str, Rows],
    reference: Mapping[str, Rows],
) -> list[str]:
    notes = []
    for name, metric in metrics.items():
        if isinstance(metric, Frechet):
            clips = min(len(rows[name]), len(reference[name]))
            if clips * metric.frames < metric.extractor.dimension:
                notes.append(
                    f"{name} has {clips} clips of {metric.frames} frames, fewer than "
                    f"the {metric.extractor.dimension} features: the distance is "
                    "mostly bias; compare only sets of equal size"
                )
    return notes


def results(evaluation: Evaluation) -> dict[str, Any]:
    """Returns `results.json`; None replaces NaN."""
    return {
        "format": FORMAT,
        "sets": {
            kind: {"sha256": found["sha256"], "n": found["n"]}
            for kind, found in evaluation.sets.items()
        },
        "metrics": {
            name: {
                **{k: _finite(getattr(value, k)) for k in ("value", "low", "high")},
                "level": LEVEL,
                "n": value.n,
                "better": evaluation.metrics[name].better,
            }
            for name, value in evaluation.values.items()
        },
        "notes": list(evaluation.notes),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
    first, second = map(stacked, rows)
    references = [run["reference_rows"].get(name) for run in (one, other)]
    a, b = (None if rows is None else stacked(rows) for rows in references)
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
    return {
        "metrics": chosen_metrics(names, known),
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

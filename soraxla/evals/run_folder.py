"""The folder of a run: `results.json`, `manifest.json`, `rows.npz`, `report.html`."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from soraxla.core.errors import UserError
from soraxla.evals.choice import metric_of_rows
from soraxla.evals.evaluation import FORMAT, Evaluation, results
from soraxla.evals.metrics.metric import Metric, Rows, stacked
from soraxla.evals.provenance import provenance
from soraxla.evals.report import page
from soraxla.files.atomic_folder import atomic_folder


def save_run(evaluation: Evaluation, out: Path) -> None:
    """Writes the folder of a run, atomically.

    Raises:
        OSError: it cannot be written.
    """
    manifest = {
        "format": FORMAT,
        **evaluation.asked,
        "sets": {kind: dict(each) for kind, each in evaluation.sets.items()},
        "extractors": dict(evaluation.extractors),
        **provenance(),
    }
    title = f"Evaluation of {Path(evaluation.asked['generated']).name}"
    with atomic_folder(out) as partial:
        for name, content in (
            ("results.json", results(evaluation)),
            ("manifest.json", manifest),
        ):
            (partial / name).write_text(json.dumps(content, indent=2) + "\n")
        _write_rows(partial / "rows.npz", evaluation)
        (partial / "report.html").write_text(page(title, evaluation), encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of a run.

    Raises:
        UserError: it is none, or of another format.
    """
    needed = ("format", "generated", "reference", "metrics", "features", "vae")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        complete = all(name in found for name in (*needed, "sets", "extractors"))
    except (ValueError, TypeError):
        complete = False
    if not complete:
        raise UserError(
            f"{path}: is no manifest of `soraxla evaluate run`; name a manifest.json"
        )
    if found["format"] != FORMAT:
        raise UserError(
            f"{path}: has format {found['format']}, expected {FORMAT}: run it with the "
            "soraxla that wrote it"
        )
    return found


def read_metrics(folder: Path) -> dict[str, Metric]:
    """Returns the values of `results.json` in the folder of a run.

    Raises:
        OSError: it is none.
    """
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {
        name: Metric(
            **{key: _number(each[key]) for key in ("value", "low", "high")}, n=each["n"]
        )
        for name, each in found["metrics"].items()
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _write_rows(path: Path, evaluation: Evaluation) -> None:
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
        extractors = manifest["extractors"]
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
    return {
        "metrics": {name: metric_of_rows(name) for name in rows["generated"]},
        "extractors": extractors,
        "rows": rows["generated"],
        "reference_rows": rows["reference"],
    }

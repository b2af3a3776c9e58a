"""The evaluation of a set of clips: metrics, intervals, and `results.json`."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from soraxla.core.errors import UserError
from soraxla.evals.choice import Networks, chosen_metrics, load_networks
from soraxla.evals.clip_sets import (
    ClipSet,
    check_pairs,
    differences,
    open_set,
    prompts_of,
    readable,
)
from soraxla.evals.metrics.frechet import Frechet
from soraxla.evals.metrics.metric import (
    LEVEL,
    Clip,
    Metric,
    Need,
    Rows,
    SetMetric,
    merged_rows,
    rows_of,
)
from soraxla.evals.reconstruction import reconstructed
from soraxla.evals.replicas import on_every_device
from soraxla.parallel.multihost import everywhere, gather

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A measured set.

    Attributes:
        asked: the arguments of `evaluate`, as text.
        metrics: the metrics by name; those of features are NAME/EXTRACTOR, or a name of
            `choice.PUBLISHED`.
        values: the value of each metric; of a set with several sizes, also
            NAME/WIDTHxHEIGHT for metrics without a reference set.
        rows: each metric's rows of generated clips.
        reference_rows: those of reference clips, for metrics of two sets.
        sets: {name: {sha256, n}}.
        extractors: {name: sha256 of the weights}.
        notes: sentences for the reader: differences of the sets, skipped clips, too few
            samples.
        opened: the sets, which read their clips.
    """

    asked: Mapping[str, Any]
    metrics: Mapping[str, SetMetric]
    values: Mapping[str, Metric]
    rows: Mapping[str, Rows]
    reference_rows: Mapping[str, Rows]
    sets: Mapping[str, Mapping[str, Any]]
    extractors: Mapping[str, str]
    notes: Sequence[str]
    opened: Mapping[str, ClipSet]


def evaluate(
    generated: Path,
    reference: Path | None = None,
    *,
    metrics: Sequence[str],
    features: Sequence[str] = (),
    vae: Path | None = None,
    unchanged: Mapping[str, Any] | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measures the clips of a folder, one at a time.

    Args:
        generated: the folder; with `vae`, of media to reconstruct.
        reference: the folder of the other set, or of the clips' references.
        metrics: names of `soraxla.evals.choice`.
        features: networks, NAME:FOLDER each.
        vae: a VAE's folder; its reconstructions are measured against the media.
        unchanged: the manifest of a run whose clips and weights these must be.
        told: is called with the numbers of clips done and in all.

    Raises:
        UserError: an unknown name, a missing folder, weights or reference, sets that
            do not fit a metric, or others than those of `unchanged`.
    """
    networks = load_networks(metrics, features)
    chosen = chosen_metrics(metrics, networks)
    needs: dict[Need | None, str] = {m.needs: name for name, m in chosen.items()}
    sets, notes = _opened(generated, reference, vae, needs)
    if unchanged is not None:
        _check_unchanged(unchanged, sets, networks)
    prompts = prompts_of(sets["generated"]) if "prompts" in needs else {}
    rows, reference_rows = _measured(chosen, sets, prompts, told)
    notes += _too_few(chosen, rows, reference_rows)
    return Evaluation(
        asked={
            "generated": str(generated),
            "reference": None if vae or reference is None else str(reference),
            "metrics": list(metrics),
            "features": list(features),
            "vae": None if vae is None else str(vae),
        },
        metrics=chosen,
        values={
            name: metric.compute(rows[name], reference_rows.get(name))
            for name, metric in chosen.items()
        }
        | _by_size(chosen, rows, sets["generated"]),
        rows=rows,
        reference_rows=reference_rows,
        sets={kind: each.described() for kind, each in sets.items()},
        extractors=networks.hashes(),
        notes=notes,
        opened=sets,
    )


def _opened(
    generated: Path,
    reference: Path | None,
    vae: Path | None,
    needs: Mapping[Need | None, str],
) -> tuple[dict[str, ClipSet], list[str]]:
    """Returns the sets without damaged files, and notes on what they lack.

    Args:
        needs: what metrics need, and one of those that do.
    """
    reference = generated if vae is not None else reference
    if needy := needs.get("pairs") or needs.get("reference"):
        if reference is None:
            raise UserError(
                f"metric {needy!r} needs --reference; name a folder of clips"
            )
    else:
        reference = None
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
        if "pairs" in needs:
            check_pairs(*sets.values())
    if vae is not None:
        sets["generated"] = reconstructed(sets["generated"], vae)
    return sets, notes


def _check_unchanged(
    manifest: Mapping[str, Any], sets: Mapping[str, ClipSet], networks: Networks
) -> None:
    for kind, clips in sets.items():
        if clips.sha256 != manifest["sets"].get(kind, {}).get("sha256"):
            raise UserError(
                f"{clips.folder}: the {kind} clips have changed since the run, "
                "expected the same bytes; restore them, or measure them with run"
            )
    for name, sha256 in networks.hashes().items():
        if sha256 != (was := manifest["extractors"].get(name)):
            raise UserError(
                f"{name}: the weights have changed since the run, expected SHA-256 "
                f"{was}; restore them"
            )


def _measured(
    chosen: Mapping[str, SetMetric],
    sets: Mapping[str, ClipSet],
    prompts: Mapping[str, str],
    told: Callable[[int, int], None],
) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Returns the rows of generated clips, and those of the reference set."""
    generated, reference = sets["generated"], sets.get("reference")
    of_sets = {n: m for n, m in chosen.items() if m.needs == "reference"}
    total = len(generated.files)
    total += len(reference.files) if reference is not None and of_sets else 0
    advance = partial(lambda count: told(next(count), total), iter(range(1, total + 1)))
    paired = any(metric.needs == "pairs" for metric in chosen.values())
    rows = _rows(chosen, generated, reference if paired else None, advance, prompts)
    if reference is None or not of_sets:
        return rows, {}
    return rows, _rows(of_sets, reference, None, advance, {})


def _rows(
    metrics: Mapping[str, SetMetric],
    clips: ClipSet,
    reference: ClipSet | None,
    advance: Callable[[], None],
    prompts: Mapping[str, str],
) -> dict[str, Rows]:
    """Returns the rows of each metric; every device of every host measures clips."""

    def measured(name: str) -> dict[str, Rows]:
        pair = None if reference is None else reference.read(name)
        prompt = prompts.get(name)
        clip = Clip(
            name=name,
            frames=clips.read(name),
            reference=pair,
            prompt=prompt,
            fps=clips.fps(name),
        )
        return rows_of(metrics, clip)

    def own() -> list[dict[str, Rows]]:
        found = []
        names = sorted(clips.files)[jax.process_index() :: jax.process_count()]
        for rows in on_every_device(measured, names):
            found.append(rows)
            advance()
        return found

    parts = [rows for found in gather(everywhere(own)) for rows in found]
    return merged_rows(metrics, parts)


def _by_size(
    metrics: Mapping[str, SetMetric], rows: Mapping[str, Rows], clips: ClipSet
) -> dict[str, Metric]:
    """Returns the metrics of each size of clips, if there are several."""
    sizes = {name: clips.size(name) for name in clips.files}
    found = {}
    for size in sorted(Counter(sizes.values())) if len(set(sizes.values())) > 1 else ():
        for name, metric in metrics.items():
            if metric.needs != "reference":
                part = {clip: rows[name][clip] for clip in sizes if sizes[clip] == size}
                found[f"{name}/{size}"] = metric.compute(part)
    return found


def _too_few(
    metrics: Mapping[str, SetMetric],
    rows: Mapping[str, Rows],
    reference: Mapping[str, Rows],
) -> list[str]:
    notes = []
    for name, metric in metrics.items():
        if isinstance(metric, Frechet):
            clips = min(len(rows[name]), len(reference[name]))
            frames, dimension = next(iter(rows[name].values())).shape
            samples = clips * frames
            if samples < dimension:
                notes.append(
                    f"{name} has {samples} samples of {clips} clips, fewer than the "
                    f"{dimension} features: the distance is mostly bias; compare only "
                    "sets of equal size"
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
                "better": better(evaluation, name),
            }
            for name, value in evaluation.values.items()
        },
        "notes": list(evaluation.notes),
    }


def better(evaluation: Evaluation, name: str) -> str | None:
    """Returns the direction of an improvement of a value, "higher" or "lower"."""
    metric = evaluation.metrics.get(name)
    return (metric or evaluation.metrics[name.rpartition("/")[0]]).better


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

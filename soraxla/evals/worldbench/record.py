"""The files of a run: `results.json`, and a `manifest.json` that repeats it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.worlds.sizes import Size
from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import LEVEL
from soraxla.evals.provenance import provenance
from soraxla.evals.worldbench.cases import Case
from soraxla.evals.worldbench.runner import FAMILIES, Outcome, draw_cases
from soraxla.files.atomic_folder import atomic_folder

FORMAT = 3  # of the manifest
RESULTS_FORMAT = 1
# The keys that repeating a run needs; the others are for readers.
_NEEDED = {
    "format": int,
    "size": dict,
    "sampler": dict,
    "windows": dict,
    "checkpoint": str,
    "sha256": dict,
    "families": dict,
}


def results(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns all numbers; None replaces NaN and infinity.

    `sets` and `metrics` are those of every `results.json` of soraxla; `families` has
    the ceilings, floors and clips beside.
    """
    return {
        "format": RESULTS_FORMAT,
        "sets": {
            name: {"sha256": _sha256_of_truth(outcome), "n": len(outcome.cases)}
            for name, outcome in outcomes.items()
        },
        "metrics": {
            f"{name}/{measure}{suffix}": _plain(interval)
            | {
                "level": LEVEL,
                "n": number.clips,
                "better": "lower" if lower else "higher",
            }
            for name, outcome in outcomes.items()
            for measure, number in outcome.numbers.items()
            for suffix, interval, lower in (
                ("", number.value, not FAMILIES[name].measures[measure].higher),
                ("/normalised", number.normalised, False),
            )
        },
        "families": {
            name: _family(name, outcome) for name, outcome in outcomes.items()
        },
    }


def _family(name: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "normalised": _plain(outcome.family_scores),
        "measures": {
            measure: _plain(number) | {"unit": FAMILIES[name].measures[measure].unit}
            for measure, number in outcome.numbers.items()
        },
        "chance": outcome.chance,
        "asked_without": list(outcome.unsupported),
        "clips": [
            {"seed": case.seed, "prompt": case.truth.caption}
            | {
                source: _plain(scores[i].values)
                for source, scores in outcome.scores.items()
            }
            for i, case in enumerate(outcome.cases)
        ],
    }


def _sha256_of_truth(outcome: Outcome) -> str:
    """Returns the hash of the simulator's clips and their prompts."""
    digest = hashlib.sha256()
    for case in outcome.cases:
        digest.update(case.truth.caption.encode() + b"\0")
        digest.update(np.ascontiguousarray(case.truth.video).data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def manifest(
    cases: Mapping[str, Sequence[Case]],
    *,
    sampler: Mapping[str, Any],
    windows: Mapping[str, int | None],
    checkpoint: str,
    sha256: Mapping[str, str],
) -> dict[str, Any]:
    """Returns everything that determines a run.

    `sha256` has the hashes of each model's parameters and of its settings.
    """
    return {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "sha256": dict(sha256),
        "size": next(iter(cases.values()))[0].ask.size._asdict(),
        "sampler": dict(sampler),
        "windows": dict(windows),
        "families": {
            name: [
                {"seed": c.seed, "prompt": c.truth.caption, "given": c.condition_frames}
                for c in each
            ]
            for name, each in cases.items()
        },
        **provenance(),
    }


def sha256_of_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns a manifest that has all keys for another run.

    Raises:
        UserError: it is no manifest, of another format, or names an unknown family.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if (
        not isinstance(found, dict)
        or not all(isinstance(found.get(key), kind) for key, kind in _NEEDED.items())
        or found["size"].keys() != set(Size._fields)
        or found["windows"].keys() != {"window", "overlap"}
        or not all(isinstance(n, int | None) for n in found["windows"].values())
        or not all(isinstance(each, list) for each in found["families"].values())
    ):
        raise UserError(
            f"{path}: is no manifest of soraxla worldbench; name a manifest.json"
        )
    if found["format"] != FORMAT:
        raise UserError(
            f"{path}: has format {found['format']}, expected {FORMAT}: run it with the "
            "soraxla that wrote it"
        )
    unknown = found["families"].keys() - FAMILIES.keys()
    if unknown:
        raise UserError(f"{path}: names an unknown family, {min(unknown)!r}")
    return found


def cases_of(path: Path, found: Mapping[str, Any]) -> dict[str, list[Case]]:
    """Returns the cases of a manifest, after checking that they are unchanged.

    Raises:
        UserError: the worlds have changed since.
    """
    cases = {}
    for name, listed in found["families"].items():
        cases[name] = draw_cases(FAMILIES[name], len(listed), Size(**found["size"]))
        for was, case in zip(listed, cases[name], strict=True):
            now = {
                "seed": case.seed,
                "prompt": case.truth.caption,
                "given": case.condition_frames,
            }
            if was != now:
                raise UserError(
                    f"{path}: its clip of {name} differs from that of seed "
                    f"{case.seed}: the worlds have changed; use its commit"
                )
    return cases


def write_record(folder: Path, files: Mapping[str, str]) -> None:
    """Writes the files to a new folder, atomically.

    Raises:
        UserError: it exists.
        OSError: it cannot be written.
    """
    with atomic_folder(folder) as partial:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")


def check_new(folder: Path) -> None:
    """Raises UserError unless `folder` can be created; call it before long work."""
    if folder.exists():
        raise UserError(f"{folder}: exists; remove it or choose another name")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder}: its parent folder does not exist; create it")

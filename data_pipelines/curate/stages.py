"""The stages of curation in their order, and the thresholds that drop clips."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.curate import (
    aesthetic,
    borders,
    caption,
    duplicates,
    motion,
    people,
    picture,
    probe,
    safety,
    shots,
    split,
    text,
)
from data_pipelines.curate.stage import Limit, Stage
from soraxla.core.errors import UserError

MODULES = (
    *(probe, shots, borders, motion, picture, text, aesthetic, safety, duplicates),
    *(people, caption, split),
)
STAGES: dict[str, Stage] = {module.STAGE.name: module.STAGE for module in MODULES}
SCORES = tuple((s.name, score) for s in STAGES.values() for score in s.scores)

Thresholds = dict[str, dict[str, Limit]]  # stage, score


def default_thresholds() -> Thresholds:
    """Returns the limits of all scores that have one by default."""
    return {name: dict(stage.limits) for name, stage in STAGES.items() if stage.limits}


def read_thresholds(path: Path | None) -> Thresholds:
    """Returns the default limits with those of a TOML file in their place.

    The file has a table for a stage and an entry for a score,
    `[motion] mean = {min = 1.5, max = 40}`. An empty entry, `{}`, removes a limit.

    Raises:
        UserError: the file is no TOML, or names an unknown stage, score or bound.
    """
    made = default_thresholds()
    if path is None:
        return made
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a TOML file of thresholds")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not TOML ({error}); correct it") from None
    for name, table in tables.items():
        stage = STAGES[_known(path, "stage", name, [s for s in STAGES if made.get(s)])]
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} is {table!r}, expected a table [{name}]")
        for score, limit in table.items():
            _known(path, f"score of {name}", score, list(stage.scores))
            made[name][score] = _limit(path, f"{name}.{score}", limit)
    return made


def _known(path: Path, kind: str, name: str, names: list[str]) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(names)}"
    raise UserError(f"{path}: {name!r} is no {kind}; {hint}")


def _limit(path: Path, place: str, found: Any) -> Limit:
    wrong = not isinstance(found, dict) or any(
        key not in ("min", "max")
        or isinstance(value, bool)
        or not isinstance(value, int | float)
        for key, value in found.items()
    )
    if wrong:
        raise UserError(
            f"{path}: {place} is {found!r}, expected {{min = NUMBER, max = NUMBER}}"
        )
    limit = Limit(**{key: float(value) for key, value in found.items()})
    if limit.min is not None and limit.max is not None and limit.min > limit.max:
        raise UserError(f"{path}: {place} has a min above its max; exchange them")
    return limit


def refusal(row: Mapping[str, Any], stage: str, limits: Mapping[str, Limit]) -> str:
    """Returns why a stage drops a row of the table, or "". An absent score drops none.

    Scores have the names of the table, `score.STAGE.NAME`.
    """
    for name, limit in limits.items():
        value = row.get(f"score.{stage}.{name}")
        if value is not None and (why := limit.refuses(value)):
            return f"{name} {why}"
    return ""


def listing() -> str:
    """Returns the lines of `--list-stages`: scores, limits and parameters."""
    lines = []
    for stage in STAGES.values():
        lines.append(f"{stage.name}: {stage.summary}")
        for name, words in stage.scores.items():
            limit = stage.limits.get(name, Limit())
            bounds = [f"{k} {v:g}" for k, v in limit._asdict().items() if v is not None]
            ends = f" [{', '.join(bounds)}]" if bounds else ""
            lines.append(f"  score {name}{ends}: {words}")
        if stage.parameters is not None:
            values = dataclasses.asdict(stage.parameters).items()
            lines.append("  parameters " + ", ".join(f"{k}={v}" for k, v in values))
    return "\n".join(lines)

"""Curation of a folder: files to rows, then the table.

The rows of a finished file are in `progress/`, under the hash of its bytes. A file that
is there is not computed again, so the command continues after a kill, and after new
files. Rows do not depend on the order of the work.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.curate import table
from data_pipelines.curate.film import (
    CurateConfig,
    LoadScorers,
    Row,
    Scorers,
    identity,
)
from data_pipelines.curate.report import write_report
from data_pipelines.curate.stages import Thresholds, default_thresholds
from data_pipelines.curate.work import Film, compute, read_stored, stored
from data_pipelines.records import PROGRESS
from data_pipelines.sources.files import media_below
from soraxla.core.errors import UserError
from soraxla.parallel.local_lock import busy, trying_lock


@dataclass(frozen=True, kw_only=True)
class Filter:
    """The settings that decide which scored clips are kept."""

    thresholds: Thresholds
    eval_share: float = 0.0
    require_safety: bool = False


def curate(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    cfg: CurateConfig | None = None,
    keep: Filter | None = None,
    load_scorers: LoadScorers = Scorers,
    progress: bool = True,
) -> list[Row]:
    """Curates all media below a folder into `out`, and returns the rows of its table.

    `clips.parquet` has one row for every candidate clip, kept or dropped, and
    `report.html` shows why; see docs/curation.md.

    Args:
        cfg: the settings that scores depend on.
        load_scorers: makes the callables of models.

    Raises:
        UserError: there is no such folder, it has no media, `out` is no folder of
            curation, or another run is at work there.
        OSError: `out` cannot be written.
    """
    root, out = Path(source), Path(out)
    keep = keep or Filter(thresholds=default_thresholds())
    cfg = cfg or CurateConfig()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name a folder of media")
    _check_ours(out)
    paths = [path for path in media_below(root) if out not in path.parents]
    if not paths:
        raise UserError(f"{root}: holds no media; name a folder of films or pictures")
    work = out / PROGRESS
    with trying_lock(work) as free:
        if not free:
            raise busy(out)
        films = [_film(root, path, work) for path in paths]
        scorers = load_scorers()
        bar = tqdm(films, unit="file", disable=not progress)
        done = [compute(film, cfg, scorers) for film in bar]
        rows = [row for film, sha in done for row in stored(film, sha)]
        meta = identity(cfg) | {"source": str(root.resolve())}
        return _finish(out, rows, keep, meta)


def refilter(out: str | os.PathLike[str], keep: Filter) -> list[Row]:
    """Decides again which clips of a finished table are kept, from its scores."""
    out = Path(out)
    rows, meta = table.read_clips(out / table.CLIPS)
    work = out / PROGRESS
    with trying_lock(work) as free:
        if not free:
            raise busy(out)
        thumbs = {}
        for sha in sorted({row["source_sha256"] for row in rows}):
            for row in read_stored(work / f"{sha}.json").get("rows", []):
                thumbs[row["clip_id"]] = row.get("thumb")
        rows = [row | {"thumb": thumbs.get(row["clip_id"])} for row in rows]
        return _finish(out, rows, keep, meta)


def _finish(
    out: Path,
    rows: Sequence[Row],
    keep: Filter,
    meta: dict[str, Any],
) -> list[Row]:
    made = table.filtered(
        rows,
        keep.thresholds,
        eval_share=keep.eval_share,
        require_safety=keep.require_safety,
    )
    limits = {
        stage: {name: limit._asdict() for name, limit in limits.items()}
        for stage, limits in keep.thresholds.items()
    }
    meta = meta | {
        "thresholds": limits,
        "eval_share": keep.eval_share,
        "require_safety": keep.require_safety,
    }
    write_report(out / "report.html", made, keep.thresholds)
    table.write_clips(out / table.CLIPS, made, meta)
    return made


def _check_ours(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder")
    if out.is_dir() and not (out / PROGRESS).is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty and holds no clips; name a new folder")


def _film(root: Path, path: Path, work: Path) -> Film:
    status = path.stat()
    source = path.relative_to(root).as_posix()
    return Film(str(root), source, str(work), status.st_size, status.st_mtime_ns)

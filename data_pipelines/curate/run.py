"""Curation of a folder: files to rows, in one process or by Beam, then the table.

The rows of a finished file are in `progress/`, under the hash of its bytes. A file that
is there is not computed again, so the command continues after a kill, and after new
files. Rows do not depend on the order of the work.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.curate import distribute, remote, table
from data_pipelines.curate.distribute import Distribution
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
    workers: int = 1,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    progress: bool = True,
) -> list[Row]:
    """Curates all media below a folder into `out`, and returns the rows of its table.

    `clips.parquet` has one row for every candidate clip, kept or dropped, and
    `report.html` shows why; see docs/curation.md. One worker needs no Beam.

    Args:
        source, out: local folders, or with a runner, URLs of an object store.
        cfg: the settings that scores depend on.
        load_scorers: makes the callables of models in each process; Beam pickles it.
        workers: processes of this machine.
        runner: a runner of Beam, in place of processes.
        runner_options: "K=V" each for the runner, or "K" for a switch.

    Raises:
        UserError: there is no such folder, it has no media, `out` is no folder of
            curation, another run is at work there, or Beam is missing.
        OSError: `out` cannot be written.
    """
    keep = keep or Filter(thresholds=default_thresholds())
    job = _Job(
        cfg=cfg or CurateConfig(),
        load_scorers=load_scorers,
        how=Distribution(workers=workers, runner=runner, options=runner_options),
        shown=progress,
    )
    if remote.is_remote(source) or remote.is_remote(out):
        return _curate_remote(os.fspath(source), os.fspath(out), job, keep)
    return _curate_local(Path(source), Path(out), job, keep)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The computation of films, apart from their places."""

    cfg: CurateConfig
    load_scorers: LoadScorers
    how: Distribution
    shown: bool


def _curate_local(root: Path, out: Path, job: _Job, keep: Filter) -> list[Row]:
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
        if job.how.runner is None and min(job.how.workers, len(films)) == 1:
            scorers = job.load_scorers()
            bar = tqdm(films, unit="file", disable=not job.shown)
            done = [compute(film, job.cfg, scorers) for film in bar]
            near = None
        else:
            done, near = _distributed(films, job)
        rows = [row for film, sha in done for row in stored(film, sha)]
        meta = identity(job.cfg) | {"source": str(root.resolve())}
        rows = table.with_captions(rows, out / table.CLIPS)
        return _finish(out, rows, keep, meta, near)


def _curate_remote(root: str, out: str, job: _Job, keep: Filter) -> list[Row]:
    """Curates films of an object store, which has no locks and no renaming."""
    for place in (root, out):
        if not remote.is_remote(place) or job.how.runner is None:
            raise UserError(
                f"{place}: films of a bucket need --runner, and --source and --out in "
                "buckets; name all three, or mount the bucket"
            )
    distribute.check_installed()
    films = remote.films_below(root, out)
    done, near = _distributed(films, job)
    with tempfile.TemporaryDirectory() as name, remote.naming(out):
        folder = Path(name)
        for sha in sorted({sha for _, sha in done}):
            remote.get(f"{films[0].progress}/{sha}.json", folder / f"{sha}.json")
        local = [(film._replace(progress=name), sha) for film, sha in done]
        rows = [row for film, sha in local for row in stored(film, sha)]
        meta = identity(job.cfg) | {"source": root}
        made = _finish(folder, rows, keep, meta, near)
        for file in ("report.html", table.CLIPS):  # the table last: it ends the work
            remote.put(folder / file, f"{out}/{file}")
    return made


def _distributed(
    films: Sequence[Film], job: _Job
) -> tuple[list[tuple[Film, str]], set[distribute.Pair]]:
    return distribute.run(films, job.cfg, job.load_scorers, job.how, shown=job.shown)


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
        return _finish(out, rows, keep, meta, None)


def _finish(
    out: Path,
    rows: Sequence[Row],
    keep: Filter,
    meta: dict[str, Any],
    near: set[tuple[str, str, int]] | None,
) -> list[Row]:
    made = table.filtered(
        rows,
        keep.thresholds,
        eval_share=keep.eval_share,
        require_safety=keep.require_safety,
        near=near,
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

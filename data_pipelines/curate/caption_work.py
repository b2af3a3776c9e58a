"""The work on captions of a table: stored line by line, then written into the table.

A clip whose line is there is not captioned again, so the command continues after a
kill, a spent budget, or new clips.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.curate import table
from data_pipelines.curate.caption_flags import flags
from data_pipelines.curate.film import Row
from data_pipelines.records import PROGRESS
from data_pipelines.sources.clips import clip_samples
from data_pipelines.sources.files import folder
from data_pipelines.view import View, ViewConfig, view
from soraxla.core.errors import UserError
from soraxla.parallel.local_lock import busy, trying_lock

# Statuses of a clip.
WRITTEN, UNREADABLE, FAILED, MISMATCH = "written", "unreadable", "failed", "mismatch"
_FINAL = (WRITTEN, UNREADABLE)  # not tried again


class Description(NamedTuple):
    """A caption, or None with the reason; and the parts of a structured one."""

    text: str | None
    reason: str = ""
    fields: Mapping[str, str] | None = None


# An error in place of a description ends the run; the others of the batch are kept.
Describe = Callable[[Sequence[View]], Sequence[Description | UserError]]
# Views and captions → scores of how well they match, 0…100.
Match = Callable[[Sequence[View], Sequence[str]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class CaptionJob:
    """A captioner and its settings.

    Attributes:
        name: of the model, with a hash of its weights, for the column `caption_model`.
        settings: all else that captions depend on.
        prompt: of a model that takes one.
        view: the frames that it sees.
        batch: clips that are described, and then stored, together.
        match: of BLIP's filter (arXiv 2201.12086); None filters nothing.
        match_name: with a hash of its weights.
        least_match: the score below which a caption is not used.
    """

    name: str
    settings: Mapping[str, Any]
    describe: Describe
    view: ViewConfig
    prompt: str | None = None
    batch: int = 64
    match: Match | None = None
    match_name: str = ""
    least_match: float = 0.0

    @property
    def key(self) -> str:
        """A hash of everything that captions depend on."""
        what = [self.name, dict(self.settings), self.prompt, vars(self.view)]
        text = json.dumps(what, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def caption_clips(
    out: Path,
    job: CaptionJob,
    *,
    data_dir: Path | None = None,
    most: int | None = None,
    meter: Callable[[Sequence[Row]], Iterable[Row]] = iter,
) -> list[Row]:
    """Writes captions of kept clips into `clips.parquet` of `out`; returns its rows.

    A caption that a clip had before any captioner, or that the films' folder lists,
    stays in `caption_original`.

    Args:
        data_dir: folder of the films; None is the one that was curated.
        most: new clips to caption in this run; None is all.
        meter: shows the progress over the clips that have no caption yet.

    Raises:
        UserError: there is no table, or another run is at work there; or one of
            `job.describe`, after what was done until then is in the table.
    """
    path = out / table.CLIPS
    rows, meta = table.read_clips(path)
    root = Path(data_dir or meta["source"])
    with trying_lock(out / PROGRESS) as free:
        if not free:
            raise busy(out)
        store = out / PROGRESS / f"captions-{job.key}.jsonl"
        done = _stored(store)
        kept = [row for row in rows if row["kept"]]
        todo = [row for row in kept if _wants(done.get(row["clip_id"]), job)][:most]
        try:
            _describe(todo, root, job, store, done, meter)
        finally:
            captioned = _joined(rows, done, job, _originals(root))
            about = {"name": job.name, "prompt": job.prompt, **job.settings}
            table.write_clips(path, captioned, meta | {"captions": about})
    return captioned


def _wants(entry: Mapping[str, Any] | None, job: CaptionJob) -> bool:
    """Returns whether a clip has no caption yet, or none of the scores asked for."""
    if entry is None:
        return True
    scored = job.match is None or job.match_name in entry["match"]
    return bool(entry["caption"]) and not scored


def _describe(
    todo: Sequence[Row],
    root: Path,
    job: CaptionJob,
    store: Path,
    done: dict[str, dict[str, Any]],
    meter: Callable[[Sequence[Row]], Iterable[Row]],
) -> None:
    """Describes clips in batches; adds each finished one to `store` and to `done`."""
    numbers = {row["clip_id"]: i for i, row in enumerate(todo)}
    samples = clip_samples(todo, root)
    batch: dict[str, View] = {}
    for row in meter(todo):
        clip = row["clip_id"]
        try:
            media = samples[numbers[clip]].open()
            batch[clip] = view(media.frames, media.fps, job.view)
        except (UserError, OSError) as error:
            _store(store, [_entry(clip, UNREADABLE, reason=str(error))], done)
        if len(batch) == job.batch:
            _finish(batch, job, store, done)
            batch = {}
    _finish(batch, job, store, done)


def _finish(
    batch: Mapping[str, View],
    job: CaptionJob,
    store: Path,
    done: dict[str, dict[str, Any]],
) -> None:
    """Describes, scores and stores a batch; raises the first error after that."""
    made = [dict(done[clip]) for clip in batch if clip in done]
    fresh = [clip for clip in batch if clip not in done]
    errors = []
    for clip, found in zip(
        fresh,
        job.describe([batch[clip] for clip in fresh]) if fresh else (),
        strict=True,
    ):
        if isinstance(found, UserError):
            errors.append(found)
            continue
        status = WRITTEN if found.text else FAILED
        entry = _entry(clip, status, found.text, found.reason, found.fields)
        made.append(entry)
    told = [entry for entry in made if entry["caption"]]
    if job.match is not None and told:
        shown = [batch[entry["clip_id"]] for entry in told]
        scores = job.match(shown, [entry["caption"] for entry in told])
        for entry, score in zip(told, scores, strict=True):
            entry["match"] = entry["match"] | {job.match_name: float(score)}
    _store(store, made, done)
    if errors:
        raise errors[0]


def _entry(
    clip: str,
    status: str,
    caption: str | None = None,
    reason: str = "",
    fields: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    made = {"clip_id": clip, "status": status, "caption": caption, "reason": reason}
    return made | {"fields": fields, "match": {}}


def _stored(store: Path) -> dict[str, dict[str, Any]]:
    """Returns the finished clips; a line that a kill cut off does not count."""
    done = {}
    if store.is_file():
        for line in store.read_text(encoding="utf-8").split("\n"):
            try:
                entry = json.loads(line)
                if entry.keys() == _entry("", "").keys() and entry["status"] in _FINAL:
                    done[entry["clip_id"]] = entry
            except (ValueError, AttributeError):
                continue
    return done


def _store(
    store: Path, lines: Sequence[dict[str, Any]], done: dict[str, dict[str, Any]]
) -> None:
    # A newline first ends a line that a kill cut off.
    text = "".join("\n" + json.dumps(line, ensure_ascii=False) for line in lines)
    with store.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    done |= {line["clip_id"]: line for line in lines}


def _joined(
    rows: Sequence[Row],
    done: Mapping[str, dict[str, Any]],
    job: CaptionJob,
    originals: Mapping[str, str],
) -> list[Row]:
    """Returns the rows of a table with the captions that are done, and their flags."""
    own = [row["clip_id"] for row in rows if row["clip_id"] in done]
    own = [clip for clip in own if done[clip]["caption"]]
    marks = dict(zip(own, flags([done[clip]["caption"] for clip in own]), strict=True))
    made = []
    for row in rows:
        entry = done.get(row["clip_id"])
        if entry is None or not row["kept"]:
            made.append(row)
            continue
        original = row["caption_original"]
        if original is None and not row["caption_model"]:
            original = row["caption"]
        original = original or originals.get(row["source"])
        status, match = entry["status"], entry["match"].get(job.match_name)
        if match is not None and match < job.least_match:
            status = MISMATCH
        text = entry["caption"] if status == WRITTEN else None
        reason = f": {entry['reason']}" if entry["reason"] else ""
        fields = entry["fields"]
        columns = {
            "caption": text or original,
            "caption_original": original,
            "caption_model": job.name if text else None,
            "caption_prompt": job.prompt,
            "caption_status": status + reason,
            "caption_fields": fields and json.dumps(fields, ensure_ascii=False),
            "caption_flags": marks.get(row["clip_id"], []),
            "caption_match": match,
        }
        made.append(row | columns)
    return made


def _originals(root: Path) -> dict[str, str]:
    """Returns the captions that the films' folder lists, by the films' names."""
    try:
        return {item.uid: item.caption for item in folder(root)}
    except (UserError, OSError):
        return {}

"""The table of clips: which are kept, and `clips.parquet`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.curate import duplicates
from data_pipelines.curate.film import Row
from data_pipelines.curate.split import split
from data_pipelines.curate.stage import Limit
from data_pipelines.curate.stages import SCORES, STAGES, Thresholds, refusal
from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file

CLIPS = "clips.parquet"
_META = b"soraxla"
_ABSENT = "was not scored, and a score is required"

# What `soraxla caption apply` writes; older tables have the first three only.
CAPTION = (
    *("caption", "caption_original", "caption_model", "caption_prompt"),
    *("caption_status", "caption_fields", "caption_flags", "caption_match"),
)

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "source", "source_sha256")),
        *((name, pa.int32()) for name in ("start_frame", "frames")),
        *((name, pa.float64()) for name in ("start_s", "fps")),
        ("crop", pa.list_(pa.int32())),
        ("kept", pa.bool_()),
        *((name, pa.string()) for name in ("dropped_by", "reason")),
        *((f"score.{stage}.{name}", pa.float32()) for stage, name in SCORES),
        *((name, pa.string()) for name in CAPTION[:-2]),
        ("caption_flags", pa.list_(pa.string())),
        ("caption_match", pa.float32()),
        ("split", pa.string()),
        ("hash", pa.binary()),
    ]
)


def filtered(
    rows: Iterable[Row],
    thresholds: Thresholds,
    *,
    eval_share: float,
    require_safety: bool,
    near: Iterable[tuple[str, str, int]] | None = None,
) -> list[Row]:
    """Returns all rows with `kept`, `dropped_by`, `reason`, `split` and duplicates.

    Args:
        rows: of all files, with `source` and `source_sha256`; none is changed.
        near: the near pairs of `duplicates.all_pairs`, if they are known.
    """
    made = [dict(row) for row in rows]
    made.sort(key=lambda row: (row["source"], row["start_frame"], row["frames"]))
    for row in made:
        row["split"] = split(row["source_sha256"], eval_share)
        row["dropped_by"], row["reason"] = _judged(row, thresholds, require_safety)
    _drop_duplicates(made, thresholds["duplicates"], near)
    for row in made:
        row["kept"] = row["dropped_by"] is None
    return made


def _judged(
    row: Row, thresholds: Thresholds, require_safety: bool
) -> tuple[str | None, str | None]:
    """Returns the stage that drops a row, and its reason; None twice for none."""
    if row.get("error"):
        return "probe", row["error"]
    for stage in STAGES:
        if stage == "duplicates":
            continue  # decided by all rows together
        if why := refusal(row, stage, thresholds.get(stage, {})):
            return stage, why
        unsafe = row.get("score.safety.unsafe")
        if stage == "safety" and require_safety and unsafe is None:
            return stage, f"unsafe {_ABSENT}"
    return None, None


def _drop_duplicates(
    rows: list[Row],
    limits: dict[str, Limit],
    near: Iterable[tuple[str, str, int]] | None,
) -> None:
    name = "score.duplicates.distance"
    by_key, clips = {}, []
    for row in rows:
        row[name] = None
        if row["dropped_by"] is None and row["hash"]:
            clip = hashed(row)
            by_key[clip.key] = row
            clips.append(clip)
    found = duplicates.all_pairs(clips) if near is None else near
    limit = limits.get("distance", Limit())
    for key, scores in duplicates.scores(clips, found, limit).items():
        row = by_key[key]
        row[name] = scores["distance"]
        if why := refusal(row, "duplicates", limits):
            row["dropped_by"], row["reason"] = "duplicates", why


def hashed(row: Row) -> duplicates.Hashed:
    """Returns what the search for duplicates knows of a row.

    The key holds the source too, since copies of a file have the same clips. In the
    order of keys, the first of several equal clips is kept.
    """
    pixels = row["crop"][2] * row["crop"][3]
    key = json.dumps([row["source"], f"{row['start_frame']:09}", row["clip_id"]])
    return duplicates.Hashed(key, (pixels, row["frames"]), bytes.fromhex(row["hash"]))


def with_captions(rows: Sequence[Row], path: Path) -> list[Row]:
    """Returns the rows with the captions that the table of an earlier run has."""
    if not path.is_file():
        return list(rows)
    known = {row["clip_id"]: row for row in read_clips(path)[0]}
    return [
        row | {name: known[row["clip_id"]][name] for name in CAPTION}
        if row["clip_id"] in known and known[row["clip_id"]]["caption_status"]
        else row
        for row in rows
    ]


def write_clips(path: Path, rows: Sequence[Row], meta: dict[str, Any]) -> None:
    """Writes `clips.parquet` atomically, with settings and versions as JSON in it."""
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
    schema = SCHEMA.with_metadata({_META: text})
    columns = [
        {name: row.get(name) for name in SCHEMA.names}
        | {"hash": bytes.fromhex(row["hash"]) if row["hash"] else None}
        for row in rows
    ]
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(columns, schema=schema), partial)


def read_clips(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Returns the rows of `clips.parquet` and the JSON of its metadata.

    Raises:
        UserError: there is no such file, or it was not written by curation.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run soraxla curate --source first")
    try:
        table = pq.read_table(path)
        meta = json.loads((table.schema.metadata or {})[_META])
        for name in CAPTION[3:]:
            if name not in table.schema.names:
                column = SCHEMA.field(name)
                table = table.append_column(column, pa.nulls(len(table), column.type))
        rows = table.select(SCHEMA.names).to_pylist()
    except (pa.ArrowException, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: is no table of clips ({reason})") from None
    for row in rows:
        row["hash"] = row["hash"].hex() if row["hash"] else None
        if not row["frames"]:
            row["error"] = row["reason"]
    return rows, meta

"""Writing of a shard: parts that are encoded one by one, then put together.

A part counts once its note in `progress/SHARD/` exists, a shard once its own note in
`progress/` does. Files left by an interruption are written again under the same name.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import records
from data_pipelines.encode_part import Decoded, PartNote, encode_part
from data_pipelines.encoders import Encoders
from data_pipelines.progress import Progress
from data_pipelines.shards import PrepareConfig
from soraxla.core.errors import UserError
from soraxla.files.disk import naming
from soraxla.parallel.local_lock import busy, trying_lock


@dataclass(kw_only=True)
class ShardNote:
    """The index rows of a shard, and the samples that were skipped."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


def shard_note(out: Path, shard: int) -> ShardNote | None:
    """Returns the note of a finished shard; raises UserError if it is damaged."""
    return _note(_note_file(out, shard), ShardNote)


def is_finished(out: Path, shard: int) -> bool:
    """Returns whether a shard's note exists."""
    return _note_file(out, shard).is_file()


def notes_of_parts(out: Path, shard: int, parts: int) -> Iterator[PartNote]:
    """Yields the notes of the first parts of an unfinished shard, as far as they go."""
    for part in range(parts):
        note = _note(_part_files(out, shard, part)[1], PartNote)
        if note is None:
            return
        yield note


def parts_done(out: Path, shard: int, firsts: Sequence[int]) -> int:
    """Returns how many parts of a shard an earlier run has encoded."""
    parts = len(firsts) - 1
    if is_finished(out, shard):
        return parts
    return sum(1 for _ in notes_of_parts(out, shard, parts))


def write_shard(
    out: Path,
    shard: int,
    firsts: Sequence[int],
    done: int,
    decoded: Iterator,
    encode: Encoders,
    settings: PrepareConfig,
    meter: Progress,
) -> None:
    """Writes a shard and then its note; goes on where an earlier run was interrupted.

    Args:
        firsts: the first sample of each part, and the end.
        done: parts that an earlier run has encoded.
        decoded: the samples of the other parts, and more; see `encode_part`.

    Raises:
        UserError: another process writes the shard; or as `encode_part`.
    """
    folder = _folder(out, shard)
    with trying_lock(folder) as free:
        if not free or parts_done(out, shard, firsts) != done:
            raise busy(out)
        for part, (first, end) in enumerate(pairwise(firsts)):
            if part >= done:
                files, own = _part_files(out, shard, part), islice(decoded, end - first)
                _write_part(*files, own, encode, settings, meter)
        _join(out, shard, len(firsts) - 1)
    shutil.rmtree(folder, ignore_errors=True)


def _write_part(
    file: Path,
    note: Path,
    decoded: Decoded,
    encode: Encoders,
    settings: PrepareConfig,
    meter: Progress,
) -> None:
    with naming(file), file.open("wb") as opened:
        made = encode_part(decoded, opened, encode, settings, meter)
    records.write_json(note, vars(made))


def _join(out: Path, shard: int, parts: int) -> None:
    """Writes the records of all parts in order, and the note that makes them count."""
    file = out / records.shard_name(shard)
    temporary = out / f".{file.name}.tmp"
    made = ShardNote()
    with records.writing(temporary):
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
    for part, note in enumerate(notes_of_parts(out, shard, parts)):
        made.skipped += note.skipped
        with _part_files(out, shard, part)[0].open("rb") as opened:
            for row, (start, size) in zip(note.rows, note.places, strict=True):
                opened.seek(start)
                with records.writing(temporary):
                    writer.write(opened.read(size))
                made.rows.append(row | {"shard": shard, "record": len(made.rows)})
    with records.writing(temporary):
        writer.close()
    if made.rows:
        os.replace(temporary, file)
    else:  # all of its samples are bad
        temporary.unlink()
    records.write_json(_note_file(out, shard), vars(made))


def _folder(out: Path, shard: int) -> Path:
    return out / records.PROGRESS / f"{shard:05d}"


def _note_file(out: Path, shard: int) -> Path:
    return out / records.PROGRESS / f"{shard:05d}.json"


def _part_files(out: Path, shard: int, part: int) -> tuple[Path, Path]:
    """Returns the file of a part's records, and that of its note."""
    stem = _folder(out, shard) / f"{part:05d}"
    return stem.with_suffix(".records"), stem.with_suffix(".json")


def _note(file: Path, cls: type[Any]) -> Any:
    try:
        return cls(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: is damaged ({error}); remove it") from None

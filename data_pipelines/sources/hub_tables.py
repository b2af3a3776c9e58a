"""Tables of a Hugging Face dataset on disk: their files, columns and rows.

The formats are those of https://github.com/huggingface/datasets at b7cb10b. The hub and
`to_parquet` write Parquet files; `save_to_disk` writes Arrow streams, data-*.arrow. The
metadata of the schema have `huggingface`, JSON with the type of each feature. An
`Image` or `Video` is a struct of `bytes` and `path` (features/video.py), of which one
may be null. A file's split is in its name, SPLIT-00000-of-00005.parquet, or a keyword
in that name or in a folder's (data_files.py).
"""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.sources.media import CAPTIONS
from soraxla.core.errors import UserError

_KINDS = (".parquet", ".arrow")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*")
_KEYWORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_MEDIA, _LABEL = ("video", "clip", "mp4", "image", "picture", "jpg", "png"), "label"
_ROWS = 8  # that are decoded at once


class Columns(NamedTuple):
    """The columns of a medium and its caption; `labels` are words for its numbers."""

    media: str
    caption: str
    labels: tuple[str, ...]


def table_files(root: Path) -> dict[str, list[Path]]:
    """Returns the tables below a folder, sorted, by the name of their split."""
    found: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*"), key=lambda path: path.as_posix()):
        parts = file.relative_to(root).parts
        # save_to_disk's caches of computed columns are no part of a dataset.
        cached = file.name.startswith("cache-")
        if file.suffix in _KINDS and not cached and not any(p[0] == "." for p in parts):
            found.setdefault(_split_of(parts), []).append(file)
    return found


def _split_of(parts: tuple[str, ...]) -> str:
    name = Path(parts[-1]).stem
    shard = _SHARD.fullmatch(name)
    if shard and shard[1] != "data":
        return _KEYWORDS.get(shard[1], shard[1])
    for text in (name, *reversed(parts[:-1])):
        for word in re.split(r"[^a-z]+", text.lower()):
            if word in _KEYWORDS:
                return _KEYWORDS[word]
    return "train"


def schema_of(file: Path) -> pa.Schema:
    """Returns the columns of a table; raises UserError if it cannot be read."""
    try:
        if file.suffix == ".parquet":
            return pq.read_schema(file)
        with pa.memory_map(str(file)) as data, pa.ipc.open_stream(data) as reader:
            return reader.schema
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from None


def find_columns(schema: pa.Schema, place: str, caption: str | None) -> Columns:
    """Returns the columns to read.

    Args:
        place: for errors.
        caption: the column of the captions; None is the first usual name.

    Raises:
        UserError: there is no column of media, or none of captions.
    """
    features = _features(schema)
    media = [field.name for field in schema if _is_media(field, features)]
    if not media:
        raise UserError(
            f"{place}: has no column of images or videos; its columns are "
            f"{', '.join(schema.names)}"
        )
    texts = [field.name for field in schema if _is_text(field.type)]
    labels = _labels(features, caption or _LABEL)
    usual = (*CAPTIONS, *([_LABEL] if labels else [])) if caption is None else [caption]
    chosen = [n for n in usual if n in texts or (labels and n == (caption or _LABEL))]
    if not chosen:
        missing = "usual column of captions" if caption is None else f"column {caption}"
        raise UserError(
            f"{place}: has no {missing} of text; its columns of text are "
            f"{', '.join(texts) or 'none'}: name one by --caption-column"
        )
    usual_media = [name for name in _MEDIA if name in media]
    is_label = chosen[0] not in texts
    return Columns([*usual_media, *media][0], chosen[0], labels if is_label else ())


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Returns the types that the schema's metadata give to columns, if any."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        return dict(stored["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _is_media(field: pa.Field, features: dict[str, Any]) -> bool:
    feature = features.get(field.name)
    if isinstance(feature, dict) and "_type" in feature:
        return feature["_type"] in ("Image", "Video")
    if pa.types.is_struct(field.type):
        names = {field.type.field(i).name for i in range(field.type.num_fields)}
        return names == {"bytes", "path"} and field.name != "audio"
    binary = pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
    return binary and field.name in _MEDIA


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _labels(features: dict[str, Any], name: str) -> tuple[str, ...]:
    feature = features.get(name)
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        return tuple(str(word).replace("_", " ") for word in feature["names"])
    return ()


def group_rows(file: Path) -> list[int]:
    """Returns the rows of each group of a table; no row is read."""
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as table:
                meta = table.metadata
                groups = range(meta.num_row_groups)
                return [meta.row_group(i).num_rows for i in groups]
        with pa.memory_map(str(file)) as data, pa.ipc.open_stream(data) as reader:
            return [batch.num_rows for batch in reader]
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from None


class Rows(threading.local):
    """The rows of a group, read on as long as they are asked for in their order.

    Each thread has its own, so that several groups are read at the same time.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = [columns.media, columns.caption]
        self._at: tuple[Path, int] | None = None
        self._rows: Iterator[tuple[Any, Any]] = iter(())
        self._next = 0

    def read(self, file: Path, group: int, row: int) -> tuple[Any, Any]:
        """Returns a row's medium and caption; raises UserError if it cannot be read."""
        if (file, group) != self._at or row < self._next:
            self._at, self._next = (file, group), 0
            self._rows = _read_group(file, group, self._columns)
        try:
            for values in self._rows:
                self._next += 1
                if self._next > row:
                    return values
        except (pa.ArrowException, OSError) as error:
            self._at = None
            raise damaged(file, error) from None
        self._at = None
        raise UserError(f"{file}: has become shorter; download it again")


def _read_group(
    file: Path, group: int, columns: list[str]
) -> Iterator[tuple[Any, Any]]:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file, memory_map=True) as table:
            batches = table.iter_batches(_ROWS, row_groups=[group], columns=columns)
            for batch in batches:
                yield from _values(batch, columns)
    else:
        with pa.memory_map(str(file)) as data, pa.ipc.open_stream(data) as reader:
            for number, batch in enumerate(reader):
                if number == group:
                    yield from _values(batch, columns)
                    return


def _values(batch: pa.RecordBatch, columns: list[str]) -> Iterator[tuple[Any, Any]]:
    """Yields rows one by one, so that only one medium is copied at a time."""
    media, captions = (batch.column(name) for name in columns)
    for i in range(batch.num_rows):
        yield media[i].as_py(), captions[i].as_py()


def damaged(file: Path, error: Exception) -> UserError:
    """Returns the error for a table that cannot be read."""
    reason = str(error).partition("\n")[0]
    return UserError(f"{file}: is damaged ({reason}); download it again")

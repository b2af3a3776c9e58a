"""Rows of a Hugging Face dataset on disk: an image or a video, and a text."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.sources.content import content_of
from data_pipelines.sources.embedded import open_embedded
from data_pipelines.sources.hub_tables import (
    Rows,
    find_columns,
    group_rows,
    schema_of,
    table_files,
)
from data_pipelines.sources.media import TRAIN, Media
from soraxla.core.errors import UserError
from soraxla.media.read import probe, read_frames


class _Group(NamedTuple):
    file: Path
    number: int  # in the file
    first: int  # row of the file


@dataclass(frozen=True, kw_only=True)
class HubRow:
    """A row; `uid` is its table's name and its number in it, TABLE/ROW."""

    source: "HubSource"
    group: _Group
    row: int  # of the group

    @property
    def uid(self) -> str:
        file = self.group.file.relative_to(self.source.root).as_posix()
        return f"{file}/{self.group.first + self.row}"

    @property
    def file(self) -> tuple[Path, int]:
        """The group, whose rows are read one after the other by one thread."""
        return self.group.file, self.group.number

    def open(self) -> Media:
        """Opens the medium; see `Sample.open`."""
        return self.source.media(self)


class HubSource(Sequence[HubRow]):
    """The rows of `FOLDER` or `FOLDER/SPLIT`, in the order of its tables.

    SPLIT is `train` unless there is only one. The medium is the column `video`, `clip`,
    `image`, … or else the first of the type Image or Video. The caption is
    `caption_column`, or the first of `media.CAPTIONS`, or the name of the `label`.

    Raises:
        UserError: there are no tables, or not of that split; one is damaged, or lacks
            the columns.
    """

    def __init__(self, place: str, *, caption_column: str | None = None):
        self.root, files = _resolved(Path(place))
        self._columns = find_columns(schema_of(files[0]), place, caption_column)
        self._files = files
        self._groups: list[_Group] = []
        counts = []
        for file in files:
            first, schema = 0, schema_of(file)
            for name in self._columns[:2]:
                if name not in schema.names:
                    raise UserError(
                        f"{file}: has no column {name}, as {files[0].name} has; name a "
                        "folder with tables of one kind"
                    )
            for number, rows in enumerate(group_rows(file)):
                self._groups.append(_Group(file, number, first))
                counts.append(rows)
                first += rows
        self._ends = [*accumulate(counts)]
        if not len(self):
            raise UserError(f"{place}: has no rows; name another folder or split")
        self._rows = Rows(self._columns)
        self.name = "datasets"

    @cached_property
    def content(self) -> list[Any]:
        """The columns that are read, and hashes of the tables' contents."""
        return [list(self._columns[:2]), *map(content_of, self._files)]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        at = bisect_right(self._ends, index)
        before = self._ends[at - 1] if at else 0
        return HubRow(source=self, group=self._groups[at], row=index - before)

    def media(self, sample: HubRow) -> Media:
        """Opens a row; raises UserError or OSError."""
        group = sample.group
        value, text = self._rows.read(group.file, group.number, sample.row)
        caption = self._caption(text)
        stored = value if isinstance(value, dict) else {"bytes": value}
        data, path = stored.get("bytes"), stored.get("path")
        if data:
            return open_embedded([data], Path(path or "").suffix, caption)
        if not path:
            raise UserError(f"its {self._columns.media} is empty")
        if "://" in path:
            raise UserError(f"{path}: is a URL, which is not downloaded")
        file = self.root / path
        info = probe(file)
        size = info.height, info.width
        return Media(caption, info.fps, read_frames(file), size=size)

    def _caption(self, value: Any) -> str:
        column, labels = self._columns.caption, self._columns.labels
        if isinstance(value, list):
            value = value[0] if value else None
        if labels and isinstance(value, int):
            value = labels[value] if 0 <= value < len(labels) else None
        if value is None or not str(value).strip():
            raise UserError(f"its {column} is empty, which would be its caption")
        return " ".join(str(value).split())


def _resolved(path: Path) -> tuple[Path, list[Path]]:
    """Returns the folder and the tables of a split of FOLDER or FOLDER/SPLIT."""
    root, split = (path, None) if path.is_dir() else (path.parent, path.name)
    if not root.is_dir():
        raise UserError(f"{path}: no such folder; check the name")
    tables = table_files(root)
    if not tables:
        raise UserError(
            f"{root}: has no tables; expected .parquet or .arrow files of a Hugging "
            "Face dataset"
        )
    if split is None:
        split = next(iter(tables)) if len(tables) == 1 else TRAIN
    if split not in tables:
        raise UserError(
            f"{root}: has no split {split!r}, expected one of {', '.join(tables)}"
        )
    return root, tables[split]

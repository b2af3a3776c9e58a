"""Folders of media with captions, and the choice between them and other sources.

Each kind of source is a file of this package, and follows the protocols of
`data_pipelines.sources.media`. That of TFDS datasets is imported only for one.
"""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_pipelines.sources.clips import ClipsSource, is_clips
from data_pipelines.sources.content import content_of
from data_pipelines.sources.hub import HubSource
from data_pipelines.sources.lerobot import LeRobotSource
from data_pipelines.sources.media import CAPTION_MIX, Extent, Media, Source
from data_pipelines.sources.webdataset import WebDatasetSource
from soraxla.core.errors import UserError
from soraxla.media.read import MEDIA_SUFFIXES, probe, read_frames


@dataclass(frozen=True, kw_only=True)
class Item:
    """A captioned media file; `uid` is its path in the source, with slashes."""

    file: Path
    caption: str
    uid: str

    def open(self) -> Media:
        """Opens the file; see `Sample.open`."""
        info, frames = probe(self.file), read_frames(self.file)
        size = info.height, info.width
        return Media(self.caption, info.fps, frames, size=size)

    def size(self) -> Extent:
        """Returns the size that the file states; see `SizedSample.size`."""
        info = probe(self.file)
        frames = info.frames or max(1, round(info.seconds * info.fps))
        text = len(self.caption.encode())
        return Extent(info.height, info.width, frames, text, info.fps)


def open_source(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    caption_mix: float = CAPTION_MIX,
    caption_column: str | None = None,
) -> Source:
    """Returns the source of a folder, of PREFIX:PLACE, or of `clips.parquet`.

    Prefixes are the keys of `PREFIXES`.

    Args:
        data_dir: folder of TFDS datasets, or of the films of a table of clips; None is
            TFDS's default (TFDS_DATA_DIR), or the folder that was curated.
        caption_mix: that of `ClipsSource`.
        caption_column: the field of a dataset that holds its captions; None is the
            first of the usual names.

    Raises:
        UserError: as the source's class, or an argument is given for a source that
            does not know it.
    """
    options = {"data_dir": data_dir, "caption_column": caption_column}
    options = {name: value for name, value in options.items() if value is not None}
    kind, place = _kind_of(source)
    for name in options:
        if name not in kind.options:
            raise UserError(f"{source}: {_EXPECTED[name]}")
    if kind is _CLIPS:
        options["caption_mix"] = caption_mix
    return kind.make(place, **options)


class _Kind(NamedTuple):
    """A kind of source: its maker, and the options that it knows."""

    make: Callable[..., Source]
    options: tuple[str, ...] = ()


def _tfds(name: str, **options: Any) -> Source:
    from data_pipelines.sources.tfds import TfdsSource  # slow to import

    return TfdsSource(name, **options)


PREFIXES: dict[str, _Kind] = {
    "datasets": _Kind(HubSource, ("caption_column",)),
    "lerobot": _Kind(LeRobotSource),
    "tfds": _Kind(_tfds, ("data_dir", "caption_column")),
    "wds": _Kind(WebDatasetSource, ("caption_column",)),
}
_CLIPS = _Kind(ClipsSource, ("data_dir",))
_EXPECTED = {
    "data_dir": "is read from where it is, expected tfds:NAME or clips.parquet with "
    "--data-dir",
    "caption_column": "has no columns to choose from, expected datasets:PLACE, "
    "tfds:NAME or wds:PLACE with --caption-column",
}


def _kind_of(source: str | os.PathLike[str]) -> tuple[_Kind, str]:
    """Returns the kind and the place of a source."""
    text = os.fspath(source)
    prefix, colon, place = text.partition(":")
    if isinstance(source, str) and colon and prefix in PREFIXES:
        return PREFIXES[prefix], place
    return (_CLIPS if is_clips(text) else _Kind(folder)), text


def fingerprint(source: Source) -> object:
    """Returns JSON that identifies a source: its name, content and length."""
    if isinstance(source, Folder):  # as in datasets that were prepared before
        return source.content
    return [source.name, source.content, len(source)]


class Folder(list[Item]):
    """The captioned media of a folder; see `folder`."""

    name = "folder"

    @property
    def content(self) -> list[list[str | None]]:
        """The name, the caption and a hash of the content of each file."""
        return [[item.uid, item.caption, content_of(item.file)] for item in self]


def folder(path: str | os.PathLike[str]) -> Folder:
    """Returns the captioned media of a folder, in the order of its list or of names.

    Captions are read from the first of these that exists:

    - `captions.jsonl`: a line `{"file": "a.mp4", "caption": "…"}` per sample;

    - `captions.csv`: columns `file` and `caption`, named in the first line;

    - one `NAME.txt` beside each `NAME.mp4`, `NAME.jpg`, …, also in subfolders.

    Raises:
        UserError: there is no such folder; a list is not UTF-8 or malformed; a caption
            is missing or empty; a `file` is listed twice, or leaves the folder
            (absolute, by "..", or through a link). The message has the line's number.
            A listed file that does not exist is an item that cannot be opened.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    lists = {"captions.jsonl": _jsonl_rows, "captions.csv": _csv_rows}
    for name, rows in lists.items():
        if (path / name).is_file():
            items = _listed(path, rows(path / name))
            break
    else:
        items = _beside(path)
    if not items:
        raise UserError(
            f"{path}: lists no media; expected captions.jsonl, captions.csv, or media "
            f"files ({', '.join(MEDIA_SUFFIXES)}) with a .txt beside each"
        )
    return Folder(items)


# A row of a list: its file and line (for errors), and its two columns.
_Row = tuple[str, object, object]


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    # Not splitlines, which also splits at other characters inside captions.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise UserError(
                f"{where}: is not JSON ({reason}); write one object a line, without "
                "commas between them"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f'{where}: expected {{"file": …, "caption": …}}')
        yield where, row.get("file"), row.get("caption")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    for key in ("file", "caption"):
        if sum(name == key for name, _ in pairs) > 1:
            raise ValueError(f"it has {key!r} twice")
    return made


def _csv_rows(path: Path) -> Iterator[_Row]:
    text = _text(path)
    header = text.partition("\n")[0].partition("\r")[0]
    # Spreadsheets of some languages separate cells by semicolons or tabs.
    marks = (mark for mark in ",;\t" if _is_header(header.split(mark)))
    mark = next(marks, ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    columns: list[str] | None = None
    while True:
        where = f"{path}:{reader.line_num + 1}"  # a quoted caption may span lines
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(f"{where}: is not CSV ({error})") from None
        if columns is None:
            columns = _names(cells)
            if not _is_header(cells):
                break
        elif any(cells[len(columns) :]):
            raise UserError(f"{where}: has too many columns; quote the caption")
        elif any(cells):
            row = dict(zip(columns, cells, strict=False))
            yield where, row.get("file"), row.get("caption")
    if columns is None or not _is_header(columns):
        raise UserError(
            f"{path}:1: expected the columns file,caption, found {header[:80]!r}; name "
            "them in the first line"
        )


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in cells]


def _is_header(cells: list[str]) -> bool:
    return {"file", "caption"} <= set(_names(cells))


def _text(path: Path) -> str:
    """Returns the text of a UTF-8 file, with or without a byte-order mark."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: is not UTF-8; save the captions as UTF-8"
        ) from None


def _listed(root: Path, rows: Iterable[_Row]) -> list[Item]:
    seen: dict[Path, str] = {}
    items = []
    for where, name, caption in rows:
        if not isinstance(name, str) or not name:
            raise UserError(f'{where}: has no "file"')
        file = _inside(root, name, where)
        if file.resolve() in seen:
            raise UserError(
                f"{where}: {name} is listed already, at {seen[file.resolve()]}"
            )
        seen[file.resolve()] = where
        if caption is not None and not isinstance(caption, str):
            raise UserError(
                f"{where}: {name} has the caption {str(caption)[:40]!r}, expected text "
                "in quotes"
            )
        if not caption or not caption.strip():
            raise UserError(f'{where}: {name} has no "caption", or an empty one')
        if "\0" in caption:
            raise UserError(
                f"{where}: the caption of {name} has a zero byte; remove it"
            )
        items.append(
            Item(
                file=file,
                caption=" ".join(caption.split()),
                uid=file.relative_to(root).as_posix(),
            )
        )
    return items


def _inside(root: Path, name: str, where: str) -> Path:
    """Returns the file `name`, after checking that it is in `root`."""
    relative = PurePosixPath(name)
    file = root / relative
    if relative.is_absolute() or Path(name).is_absolute() or ".." in relative.parts:
        raise UserError(f"{where}: {name} leaves the folder; name a file inside it")
    # macOS separates accents from their letters in names, and lists do not.
    for form in ("NFC", "NFD"):
        other = root / unicodedata.normalize(form, name)
        file = other if not file.exists() and other.exists() else file
    if "\\" in name and not file.exists():
        raise UserError(f"{where}: {name} does not exist; write folders with /")
    if not file.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{where}: {name} is a link out of the folder")
    return file


def _beside(root: Path) -> list[Item]:
    """Returns media with a .txt each, by name, without hidden files and folders."""
    rows = []
    for file in media_below(root):
        text = file.with_suffix(".txt")
        if not text.is_file():
            raise UserError(
                f"{file}: has no caption; expected it in {text.name}{_unread(root)}"
            )
        rows.append((str(text), file.relative_to(root).as_posix(), _text(text)))
    return _listed(root, rows)


def _unread(root: Path) -> str:
    """Returns words on lists of captions that have another name or form."""
    kinds = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
    names = sorted(p.name for p in root.iterdir() if p.suffix.lower() in kinds)
    if not names:
        return ""
    return f" ({', '.join(names[:3])} is no captions.jsonl or captions.csv)"


def media_below(root: Path) -> list[Path]:
    """Returns all videos and pictures below a folder, sorted.

    Hidden files are left out, and the previews of training folders.
    """
    trainings = {path.parent for path in root.rglob("train.json")} - {root}
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in MEDIA_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not trainings.intersection(path.parents)
    )

"""Clips of a curated table, `clips.parquet`, cut from their films while they are read.

This file knows the columns of the table, and not curation.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.sources.film import Film
from data_pipelines.sources.media import CAPTION_MIX, EVAL, TRAIN, Extent, Media
from soraxla.core.errors import UserError

SUFFIX = ".parquet"
_SPLITS = (TRAIN, EVAL)
_COLUMNS = [
    *("clip_id", "source", "start_frame", "frames", "fps", "crop", "kept"),
    *("caption", "split"),
]
_ORIGINAL = "caption_original"


@dataclass(frozen=True, kw_only=True)
class ClipSample:
    """A kept clip; `uid` is its film's name and its first frame, FILM@FRAME."""

    uid: str
    file: Path
    start: int
    frames: int
    fps: float
    crop: tuple[int, int, int, int]  # top, left, height, width
    caption: str
    split: str
    film: Film

    def open(self) -> Media:
        """Opens the film at the clip; see `Sample.open`."""
        if not self.file.is_file():
            raise UserError(f"{self.file}: no such file; name its folder by --data-dir")
        return Media(
            self.caption, self.fps, self._read(), size=self.crop[2:], split=self.split
        )

    def size(self) -> Extent:
        """Returns the size that the table states."""
        text = len(self.caption.encode())
        return Extent(*self.crop[2:], self.frames, text, self.fps)

    def _read(self) -> Iterator[np.ndarray]:
        top, left, height, width = self.crop
        for frame in self.film.read(self.file, self.start, self.frames):
            yield frame[top : top + height, left : left + width]


class ClipsSource(Sequence[ClipSample]):
    """The kept clips of `FILE.parquet`, or those of a split by `FILE.parquet/SPLIT`.

    SPLIT is `train` or `eval`. A film is decoded once while its clips are read in their
    order. A clip without a caption has the empty one.

    Args:
        data_dir: folder of the films; None is the one that was curated.
        caption_mix: share of the clips that keep the caption they had before a
            captioner's. Training on both keeps words that people use in prompts (as in
            DALL·E 3's report).

    Raises:
        UserError: there is no such table, or it keeps no clip of the split.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        data_dir: str | Path | None = None,
        caption_mix: float = CAPTION_MIX,
    ):
        if not 0 <= caption_mix <= 1:
            raise UserError(f"caption_mix is {caption_mix}, expected 0 to 1")
        path, split = parted(place)
        try:
            table = pq.read_table(path, columns=[*_COLUMNS, _ORIGINAL])
            meta = json.loads((table.schema.metadata or {})[b"soraxla"])
            root = Path(data_dir or meta["source"])
        except (pa.ArrowException, KeyError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{path}: is no table of clips ({reason}); expected clips.parquet of "
                "soraxla curate"
            ) from None
        rows = [row for row in table.to_pylist() if row["kept"]]
        rows = [row for row in rows if split in (None, row["split"])]
        if not rows:
            where = f" of the split {split}" if split else ""
            raise UserError(f"{path}: keeps no clip{where}; change the thresholds")
        for row in rows:
            if row[_ORIGINAL] and _share(row["clip_id"]) < caption_mix:
                row["caption"] = row[_ORIGINAL]
        self._samples = clip_samples(rows, root)
        self.name = f"{path.name}/{split or ''}"
        words = json.dumps([[row[name] for name in _COLUMNS] for row in rows])
        self.content = hashlib.sha256(words.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[index]


def clip_samples(rows: Sequence[Mapping[str, Any]], root: Path) -> list[ClipSample]:
    """Returns the clips of a table's rows; `root` is the folder of the films.

    A film is decoded once while its clips are read in their order.
    """
    film = Film("curate it again")
    return [
        ClipSample(
            uid=f"{row['source']}@{row['start_frame']}",
            file=root / row["source"],
            start=row["start_frame"],
            frames=row["frames"],
            fps=row["fps"],
            crop=tuple(row["crop"]),
            caption=row["caption"] or "",
            split=row["split"],
            film=film,
        )
        for row in rows
    ]


def _share(clip_id: str) -> float:
    """Returns a number in 0…1 that is even over clips and the same in all runs."""
    digest = hashlib.sha256(f"caption {clip_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def parted(place: str | Path) -> tuple[Path, str | None]:
    """Returns the file and the split of `FILE.parquet[/SPLIT]`; None is both."""
    path = Path(place)
    if path.parent.suffix == SUFFIX and path.name in _SPLITS:
        return path.parent, path.name
    return path, None


def is_clips(place: str | Path) -> bool:
    """Returns True for the name of an existing file with the suffix of a table."""
    path, _ = parted(place)
    with contextlib.suppress(OSError):
        return path.suffix == SUFFIX and path.is_file()
    return False

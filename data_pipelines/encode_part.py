"""Encoding of a part of a shard: decode ahead ▸ batches ▸ records as they are ready.

A part's records are a function of its samples only. A record is written to the part's
file when all of its tensors are encoded, in any order; the note says where it is, so a
shard is put together in the order of the source. A sample that cannot be used has no
place in the note, though some of its pieces may be in the file.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from data_pipelines import records, transforms
from data_pipelines.encode_conditions import condition_clips, condition_counts
from data_pipelines.encoders import Batches, Encoders
from data_pipelines.progress import Progress
from data_pipelines.resample import resampled
from data_pipelines.shards import PrepareConfig
from data_pipelines.sources.files import Item
from data_pipelines.sources.media import Media, Sample
from soraxla.core.errors import UserError
from soraxla.core.types import latent_frames

_NOT_FINITE = "its latents are not finite"


class Unreadable(Exception):
    """A sample of the source that must be skipped, with the reason."""


@dataclass(kw_only=True)
class PartNote:
    """The records of a part: their index rows and places, and what was skipped."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)  # start, bytes
    skipped: list[dict[str, str]] = field(default_factory=list)


@dataclass(kw_only=True)
class _Work:
    """A sample that is encoded: its records so far, or the reason to skip it."""

    sample: Sample
    text: Future | None = None
    waiting: int = 0  # pieces that are not written yet
    read: bool = False  # to its end
    bad: str | None = None
    records: list[tuple[dict[str, Any], list[int]]] = field(default_factory=list)


@dataclass(kw_only=True)
class _Piece:
    """A piece that is encoded."""

    work: _Work
    row: dict[str, Any]
    tensors: dict[str, np.ndarray]
    latents: dict[str, Future]

    def is_ready(self) -> bool:
        assert self.work.text is not None
        return self.work.text.done() and all(z.done() for z in self.latents.values())


Decoded = Iterable[tuple[Sample, Iterator[tuple[Media, transforms.Piece]]]]


def encode_part(
    decoded: Decoded,
    file: BinaryIO,
    encode: Encoders,
    settings: PrepareConfig,
    meter: Progress,
) -> PartNote:
    """Writes the records of samples to a file, and returns the note on them.

    Args:
        decoded: the samples with their pieces, of `decode_ahead`.

    Raises:
        UserError: too many samples cannot be used, or an encoder's result is wrong.
    """
    with ThreadPoolExecutor(encode.at_once, "soraxla encoder") as pool:
        part = _Part(file, Batches(encode, pool), encode, settings, meter)
        try:
            for sample, items in decoded:
                part.add(sample, items)
            part.flush()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return part.note()


class _Part:
    def __init__(
        self,
        file: BinaryIO,
        batches: Batches,
        encode: Encoders,
        settings: PrepareConfig,
        meter: Progress,
    ):
        self._file, self._batches, self._meter = file, batches, meter
        self._encode, self._settings = encode, settings
        self._works: list[_Work] = []
        self._pieces: list[_Piece] = []
        self._counted = 0  # samples that the meter has counted

    def add(
        self, sample: Sample, items: Iterator[tuple[Media, transforms.Piece]]
    ) -> None:
        """Begins to encode a sample, and writes the records that are ready."""
        self._works.append(work := _Work(sample=sample))
        try:
            for media, piece in items:
                self._begin(work, media, piece)
                self._write_ready()
        except Unreadable as bad:
            work.bad = str(bad)
        work.read = True
        self._write_ready()

    def flush(self) -> None:
        self._batches.flush()
        self._write_ready()
        assert not self._pieces

    def note(self) -> PartNote:
        """Returns the rows of the samples that can be used, in order."""
        note = PartNote()
        for work in self._works:
            if work.bad is not None:
                note.skipped.append({"file": work.sample.uid, "reason": work.bad})
                continue
            ordered = sorted(work.records, key=lambda r: r[0]["start_frame"])
            note.rows += [row for row, _ in ordered]
            note.places += [place for _, place in ordered]
        return note

    def _begin(self, work: _Work, media: Media, piece: transforms.Piece) -> None:
        if work.text is None:
            work.text = self._batches.text(media.caption)
        elif not work.text.done():
            self._batches.flush_texts()  # else a film's pieces would wait in memory
        row = _row(work.sample, media, piece)
        clips, tensors = {"latents": piece.frames}, _steering(media, piece)
        if self._settings.conditions:
            cell = self._settings.vae_spatial * transforms.PATCH[1]
            conditions, hole = condition_clips(piece.frames, row["uid"], cell)
            clips |= conditions
            tensors |= hole
            row |= condition_counts(conditions)
        else:
            row |= condition_counts({})
        row |= _grid(piece, self._encode)
        work.waiting += 1
        latents = {name: self._batches.video(clip) for name, clip in clips.items()}
        if (features := self._encode.features) is not None:
            ids = _ids(media, piece)
            tensors[records.FEATURES] = features.of(piece.frames, ids)
        self._pieces.append(
            _Piece(work=work, row=row, tensors=tensors, latents=latents)
        )

    def _write_ready(self) -> None:
        waiting = []
        for piece in self._pieces:
            if piece.is_ready():
                self._write(piece)
            else:
                waiting.append(piece)
        self._pieces = waiting
        # In order, so that a run that was interrupted counts alike.
        while self._counted < len(self._works):
            work = self._works[self._counted]
            if work.waiting or not work.read:
                break
            self._count(work)

    def _write(self, piece: _Piece) -> None:
        work = piece.work
        assert work.text is not None
        work.waiting -= 1
        latents = {name: future.result() for name, future in piece.latents.items()}
        text = work.text.result()
        if not all(np.isfinite(z).all() for z in latents.values()):
            work.bad = work.bad or _NOT_FINITE
        if work.bad is not None:
            return
        data = records.encode_record(text=text, **latents, **piece.tensors)
        place = [self._file.tell(), self._file.write(data)]
        work.records.append((piece.row | {"text_length": len(text)}, place))

    def _count(self, work: _Work) -> None:
        self._counted += 1
        if work.bad is not None:
            work.records = []
            self._meter.skip({"file": work.sample.uid, "reason": work.bad})
        self._meter.step([row for row, _ in work.records])


def _row(sample: Sample, media: Media, piece: transforms.Piece) -> dict[str, Any]:
    box = piece.box
    return {
        "uid": f"{sample.uid}#{piece.start}" if piece.start else sample.uid,
        "fps": media.fps,
        "height": box.height,
        "width": box.width,
        "frames": len(piece.frames),
        "caption": media.caption,
        "source": sample.uid,
        "crop": [box.top, box.left, box.height, box.width],
        "start_frame": piece.start,
        "split": media.split,
    }


def _grid(piece: transforms.Piece, encode: Encoders) -> dict[str, int]:
    """Returns the columns with the size of a piece's latents."""
    t = latent_frames(len(piece.frames), transforms.TEMPORAL)
    spatial = encode.spatial
    return {"t": t, "h": piece.box.height // spatial, "w": piece.box.width // spatial}


def _steering(media: Media, piece: transforms.Piece) -> dict[str, np.ndarray]:
    tensors = {}
    for name in ("actions", "camera"):
        if (steering := getattr(media, name)) is not None:
            rows = steering[piece.start : piece.start + len(piece.frames)]
            # Far from the origin, bfloat16 steps are blocks wide.
            if name == "camera":
                rows = np.linalg.inv(rows[0])[None] @ rows
            tensors[name] = rows
    return tensors


def _ids(media: Media, piece: transforms.Piece) -> np.ndarray | None:
    """Returns the piece's part of the ids of objects."""
    if media.ids is None:
        return None
    box, frames = piece.box, media.ids[piece.start : piece.start + len(piece.frames)]
    rows = slice(box.top, box.top + box.height)
    return frames[:, rows, box.left : box.left + box.width]


def read_pieces(
    sample: Sample, settings: PrepareConfig
) -> Iterator[tuple[Media, transforms.Piece]]:
    """Yields the pieces of a sample; raises Unreadable with the reason.

    Only reading is inside the `try`: a failing encoder must not count as bad media.
    """
    try:
        media = resampled(sample.open(), settings)
        limits = settings.max_tokens, settings.vae_spatial
        if media.size is not None:  # refused before it is decoded
            box = transforms.crop_box(*media.size, settings.vae_spatial)
            transforms.piece_frames(box, *limits)
        for piece in transforms.pieces(media.frames, *limits):
            yield media, piece
    except (UserError, OSError) as error:
        path = f"{sample.file}: " if isinstance(sample, Item) else ""
        raise Unreadable(str(error).removeprefix(path)) from None

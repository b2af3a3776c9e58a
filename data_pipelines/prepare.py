"""Preparation of media as a dataset of latents and text embeddings, interruptible.

The work goes shard by shard, in the order of the source. A shard counts once its note
in `progress/` exists; the note holds its index rows, the files skipped, and where to
continue. Files left by an interruption are written again under the same name, so the
finished folder has the same bytes after any number of interruptions. The card,
`dataset.json`, is written last.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import (
    ArrayRecordReader,
    ArrayRecordWriter,
)
from jaxtyping import Float

from data_pipelines import records, transforms
from data_pipelines.bad_media import there
from data_pipelines.encode_conditions import EncodeVideo, condition_counts
from data_pipelines.encoders import Encoders, EncodeText, Unreadable
from data_pipelines.progress import Progress, tokens
from data_pipelines.sources.files import Item, fingerprint, open_source
from data_pipelines.sources.media import Media, Sample
from soraxla.core.errors import UserError
from soraxla.files.disk import naming
from soraxla.parallel.file_lock import folder_lock

_SPOOL_BYTES = 64 << 20  # records of one video above this wait on disk, not in memory


@dataclass(frozen=True, kw_only=True)
class _PrepareConfig:
    """The settings that the bytes of the dataset depend on, beside the source."""

    vae_sha256: str
    text_encoder: str
    max_tokens: int
    shard_size: int
    vae_spatial: int
    conditions: bool


@dataclass(kw_only=True)
class _Note:
    """The work done up to the end of one shard."""

    done: int  # samples of the source processed so far, in all shards
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    encode_video: EncodeVideo,
    encode_text: EncodeText,
    vae_dir: Path | None,
    vae_sha256: str,
    text_encoder: str,
    vae_spatial: int = transforms.SPATIAL,
    conditions: bool = True,
    max_tokens: int = 32768,
    max_bad: float | int = 0.05,
    shard_size: int = 256,
    progress: bool = True,
) -> dict[str, Any]:
    """Encodes captioned media into the folder `out`, and returns its `dataset.json`.

    Sides are cropped to whole patches; a clip is trimmed to 1 + 4k frames and cut into
    pieces of at most `max_tokens` tokens; nothing is resampled. Unusable media are
    skipped, and listed with the reason in `skipped.jsonl`. Called again after an
    interruption, it continues, and the result has the same bytes; see docs/dataset.md.

    Args:
        source, data_dir: see `sources.open_source`.
        out: a folder that is new, empty, or an unfinished or finished run of this.
        encode_video: uint8 frames (1 + 4k, H, W, 3) to the VAE's normalised posterior
            mean, (1 + k, H / s, W / s, C).
        encode_text: captions to embeddings (M, E), at least one token each, also of "".
        vae_dir: the VAE's weights folder, copied into `out`; None copies nothing.
        vae_sha256: hash of the VAE's files, kept in `dataset.json`.
        text_encoder: name of the text encoder, kept in `dataset.json`.
        vae_spatial: s, the pixels of a latent's side.
        conditions: also store the condition latents of a mixture of tasks; see
            `encode_conditions`. It doubles the encoding.
        max_bad: the largest share of the source's samples that may be skipped.
        shard_size: records per shard; more if one video's pieces exceed it.

    Raises:
        UserError: a bad source or setting, too many bad samples, or an `out` with other
            files, a dataset of other settings, or another run.
        OSError: `out` cannot be written.
    """
    _check_numbers(max_tokens=max_tokens, max_bad=max_bad, shard_size=shard_size)
    settings = _PrepareConfig(
        vae_sha256=vae_sha256,
        text_encoder=text_encoder,
        max_tokens=max_tokens,
        shard_size=shard_size,
        vae_spatial=vae_spatial,
        conditions=conditions,
    )
    samples = there(open_source(source, data_dir=data_dir), max_bad)
    encode = Encoders(encode_video, encode_text, vae_spatial)
    meter = partial(_progress, len(samples), max_bad=max_bad, shown=progress)
    return _encode(samples, Path(out), encode, settings, meter, vae_dir)


def _encode(
    samples: Sequence[Sample],
    out: Path,
    encode: Encoders,
    settings: _PrepareConfig,
    meter: Callable[[list[_Note]], Progress],
    vae_dir: Path | None,
) -> dict[str, Any]:
    """Encodes all samples, or those that an earlier run left, and returns the card."""
    identity = _identity(samples, settings)
    if (out / records.CARD).is_file():
        return _finished(out, identity)
    _check_ours(out)
    with folder_lock(out / records.PROGRESS):
        notes = _claim(out, identity)
        empty_text = _write_shards(out, notes, samples, encode, settings, meter(notes))
        card = _finish(out, notes, empty_text, vae_dir, settings, samples, identity)
    # After the lock, which some file systems keep as long as it is open.
    shutil.rmtree(out / records.PROGRESS)
    return card


def _check_numbers(*, max_tokens: int, max_bad: float | int, shard_size: int) -> None:
    if max_tokens < 1 or shard_size < 1:
        raise UserError(
            f"max_tokens is {max_tokens} and shard_size {shard_size}, "
            "expected at least 1"
        )
    if not 0 <= max_bad <= 1:
        raise UserError(f"max_bad is {max_bad}, expected a share between 0 and 1")


def _identity(samples: Sequence[Sample], settings: _PrepareConfig) -> str:
    what = [records.FORMAT, fingerprint(samples), vars(settings)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


# --- The folder -------------------------------------------------------------------


def _finished(out: Path, identity: str) -> dict[str, Any]:
    """Returns the card of a finished dataset of this source and these settings."""
    card = records.read_card(out)
    if card.get("fingerprint") != identity:
        raise UserError(_other_run(out))
    # The folder remains if the run was interrupted just before.
    shutil.rmtree(out / records.PROGRESS, ignore_errors=True)
    return card


def _other_run(out: Path) -> str:
    return (
        f"{out}: was prepared from another source, VAE, text encoder or settings; "
        "choose another --out, or remove the folder"
    )


def _check_ours(out: Path) -> None:
    progress = out / records.PROGRESS
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder")
    if out.is_dir() and not progress.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty and holds no dataset; name a new folder")


def _claim(out: Path, identity: str) -> list[_Note]:
    """Prepares `out` for work; returns the notes of the finished shards."""
    progress, notes = out / records.PROGRESS, []
    while (note := progress / f"{len(notes):05d}.json").is_file():
        try:
            notes.append(_Note(**json.loads(note.read_bytes())))
        except (ValueError, TypeError) as error:
            raise UserError(f"{note}: is damaged ({error}); remove it") from None
    file = progress / "fingerprint"
    if notes and file.read_text() != identity:
        raise UserError(_other_run(out))
    # Without a finished shard, a source that was corrected may start again.
    records.write_whole(file, identity.encode())
    return notes


# --- The work ---------------------------------------------------------------------


def _progress(total: int, notes: list[_Note], **settings: Any) -> Progress:
    skipped = [entry for note in notes for entry in note.skipped]
    return Progress(total, notes[-1].done if notes else 0, skipped, **settings)


def _write_shards(
    out: Path,
    notes: list[_Note],
    samples: Sequence[Sample],
    encode: Encoders,
    settings: _PrepareConfig,
    meter: Progress,
) -> Float[np.ndarray, "m e"]:
    """Writes the missing shards and appends their notes; returns the empty text."""
    with meter:
        empty_text = encode.one_text("")
        while meter.done < len(samples):
            shard = len(notes)
            notes.append(_write_shard(out, shard, samples, encode, settings, meter))
    return empty_text


def _write_shard(
    out: Path,
    shard: int,
    samples: Sequence[Sample],
    encode: Encoders,
    settings: _PrepareConfig,
    meter: Progress,
) -> _Note:
    """Writes the next shard, and then the note that makes it count."""
    note = _Note(done=meter.done)
    file = out / records.shard_name(shard)
    temporary = out / f".{file.name}.tmp"
    with records.writing(temporary):
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
    while note.done < len(samples) and len(note.rows) < settings.shard_size:
        sample, rows, lengths = samples[note.done], [], []
        with naming(temporary), _spool(out) as spool:
            try:
                for record, row in _encoded(sample, encode, settings):
                    lengths.append(spool.write(record))
                    place = {"shard": shard, "record": len(note.rows) + len(rows)}
                    rows.append(row | place)
            except Unreadable as bad:
                note.skipped.append({"file": sample.uid, "reason": str(bad)})
                meter.skip(note.skipped[-1], out)
                rows, lengths = [], []  # a truncated video leaves none of its pieces
            spool.seek(0)
            with records.writing(temporary):
                for length in lengths:
                    writer.write(spool.read(length))
        note.rows += rows
        note.done += 1
        meter.step(rows)
    with records.writing(temporary):
        writer.close()
    if note.rows:
        os.replace(temporary, file)
    else:  # only bad samples remained
        temporary.unlink()
    records.write_json(out / records.PROGRESS / f"{shard:05d}.json", vars(note))
    return note


def _spool(out: Path) -> tempfile.SpooledTemporaryFile:
    return tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(out))


def _encoded(
    sample: Sample, encode: Encoders, settings: _PrepareConfig
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields (record, index row) of each piece; raises Unreadable, maybe after some."""
    text = None
    for media, piece in _read(sample, settings):
        text = encode.one_text(media.caption) if text is None else text
        latents = encode.latents(piece)
        box = piece.box
        row = {
            "uid": f"{sample.uid}#{piece.start}" if piece.start else sample.uid,
            **dict(zip("thw", latents.shape, strict=False)),
            "fps": media.fps,
            "height": box.height,
            "width": box.width,
            "frames": len(piece.frames),
            "text_length": len(text),
            "caption": media.caption,
            "source": sample.uid,
            "crop": [box.top, box.left, box.height, box.width],
            "start_frame": piece.start,
        }
        extra = encode.conditions(piece, row["uid"]) if settings.conditions else {}
        row |= condition_counts(extra)
        for name in ("actions", "camera"):
            if (steering := getattr(media, name)) is not None:
                rows = steering[piece.start : piece.start + len(piece.frames)]
                # Far from the origin, bfloat16 steps are blocks wide.
                if name == "camera":
                    rows = np.linalg.inv(rows[0])[None] @ rows
                extra[name] = rows
        yield records.encode_record(latents=latents, text=text, **extra), row


def _read(
    sample: Sample, settings: _PrepareConfig
) -> Iterator[tuple[Media, transforms.Piece]]:
    """Yields the pieces of a sample; raises Unreadable with the reason.

    Only reading is inside the `try`: a failing encoder must not count as bad media.
    """
    try:
        media = sample.open()
        limits = settings.max_tokens, settings.vae_spatial
        if media.size is not None:  # refused before it is decoded
            box = transforms.crop_box(*media.size, settings.vae_spatial)
            transforms.piece_frames(box, *limits)
        for piece in transforms.pieces(media.frames, *limits):
            yield media, piece
    except (UserError, OSError) as error:
        path = f"{sample.file}: " if isinstance(sample, Item) else ""
        raise Unreadable(str(error).removeprefix(path)) from None


# --- The end ----------------------------------------------------------------------


def _cut_clips(rows: Sequence[dict[str, Any]]) -> int:
    """Returns how many captioned sources have several pieces in the index."""
    pieces = Counter(row["source"] for row in rows if row["caption"].strip())
    return sum(count > 1 for count in pieces.values())


def _finish(
    out: Path,
    notes: Sequence[_Note],
    empty_text: np.ndarray,
    vae_dir: Path | None,
    settings: _PrepareConfig,
    samples: Sequence[Sample],
    identity: str,
) -> dict[str, Any]:
    """Writes all files but the shards, the card last; returns the card."""
    rows = [row for note in notes for row in note.rows]
    skipped = [entry for note in notes for entry in note.skipped]
    records.write_lines(out / records.SKIPPED, skipped)
    if not rows:
        raise UserError(
            f"{out}: none of {len(skipped)} samples can be used; see "
            f"{out / records.SKIPPED}"
        )
    records.write_index(out / records.INDEX, rows)
    records.write_whole(
        out / records.EMPTY_TEXT, records.encode_record(text=empty_text)
    )
    if vae_dir is not None:
        records.copy_folder(vae_dir, out / records.VAE)
    reader = ArrayRecordReader(str(out / records.shard_name(0)))
    channels = records.decode_record(reader.read([0])[0])["latents"].shape[-1]
    reader.close()
    card = {
        "format": records.FORMAT,
        "vae_sha256": settings.vae_sha256,
        "vae_spatial": settings.vae_spatial,
        "vae_temporal": transforms.TEMPORAL,
        "latent_channels": channels,
        "patch": list(transforms.PATCH),
        "conditions": settings.conditions,
        "actions": list(getattr(samples, "actions", ())),
        "camera": bool(getattr(samples, "camera", False)),
        "text_encoder": settings.text_encoder,
        "text_width": empty_text.shape[-1],
        "samples": len(rows),
        "tokens": sum(map(tokens, rows)),
        "skipped": len(skipped),
        "cut_clips": _cut_clips(rows),
        "shards": sum(bool(note.rows) for note in notes),
        "max_tokens": settings.max_tokens,
        "shard_size": settings.shard_size,
        "fingerprint": identity,
    }
    records.write_json(out / records.CARD, card)
    return card

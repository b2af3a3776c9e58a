"""Kept clips as separate files: copied without loss where possible, else encoded.

A copy holds the packets of the film from a key frame on, so nothing is decoded. It is
possible where a key frame is within the trimmed frames of the clip's beginning, as
encoders put one after each cut, and where no border is cropped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import av.error
from tqdm import tqdm

from data_pipelines.curate import table
from data_pipelines.curate.film import Row
from data_pipelines.records import PROGRESS, write_lines
from data_pipelines.sources.clips import ClipSample, ClipsSource
from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file
from soraxla.media.read import probe
from soraxla.media.videos import opened_video
from soraxla.media.write import write_video
from soraxla.parallel.local_lock import busy, trying_lock

FOLDER = "media"
_CODECS = ("h264", "hevc", "av1", "vp9")  # that every reader expects in an .mp4
_LOST = 8  # frames at a clip's end, whose references are after it


class Made(NamedTuple):
    """The numbers of clips that were copied and encoded."""

    copied: int
    encoded: int


def materialize(out: Path, *, progress: bool = True) -> Made:
    """Writes the kept clips of a finished table to `out`/media.

    Captions are listed in captions.jsonl there. A clip that is there is not written
    again, and one that is no longer kept is removed.

    Raises:
        UserError: there is no table, a film is missing, or another run is at work.
        OSError: a file cannot be written.
    """
    rows, meta = table.read_clips(out / table.CLIPS)
    kept = [row for row in rows if row["kept"]]
    trim = meta["settings"]["shots"]["trim_frames"]
    with trying_lock(out / PROGRESS) as free:
        if not free:
            raise busy(out)
        folder = out / FOLDER
        folder.mkdir(exist_ok=True)
        names = {_name(row) for row in kept}
        for path in folder.glob("*.*"):
            if path.name not in names and path.is_file():
                path.unlink()
        copied = encoded = 0
        pairs = _samples(out, kept)
        bar = tqdm(pairs, total=len(kept), unit="clip", disable=not progress)
        for row, sample in bar:
            target = folder / _name(row)
            if target.exists():
                continue
            if cut(sample, target, trim):
                copied += 1
            else:
                media = sample.open()
                write_video(target, media.frames, media.fps or 1)
                encoded += 1
        captions = {_name(row): row["caption"] for row in kept if row["caption"]}
        if captions:
            entries = [{"file": n, "caption": text} for n, text in captions.items()]
            write_lines(folder / "captions.jsonl", entries)
    return Made(copied, encoded)


def cut(sample: ClipSample, target: Path, trim: int) -> bool:
    """Copies the packets of a clip into an .mp4; returns False if it cannot be.

    The copy begins at a key frame within `trim` frames of the clip's beginning. It
    lacks the last frames, eight at most, if they refer to frames after the clip.
    """
    if not sample.fps or not sample.file.is_file():
        return False
    info = probe(sample.file)
    if sample.crop != (0, 0, info.height, info.width):
        return False
    with opened_video(sample.file) as (container, stream):
        if stream.codec_context.name not in _CODECS:
            return False
        packets = _packets(container, stream, sample, trim)
        if len(packets) < sample.frames - _LOST:
            return False
        origin = packets[0].pts or 0
        try:
            with atomic_file(target) as partial:
                with av.open(str(partial), "w", format="mp4") as made:
                    copy = made.add_stream_from_template(stream)
                    for packet in packets:
                        packet.stream = copy
                        packet.pts = (packet.pts or 0) - origin
                        packet.dts = (packet.dts or 0) - origin
                        made.mux(packet)
                found = probe(partial)
                # What the container does not copy, such as a rotation, is seen here.
                if (found.height, found.width) != (info.height, info.width):
                    raise UserError(f"{target}: has another size than its film")
        except (UserError, av.error.FFmpegError):
            return False
    return True


def _packets(container, stream, sample: ClipSample, trim: int) -> list[av.Packet]:
    """Returns the packets to copy, from a key frame on, or none."""
    zero, second = stream.start_time or 0, 1 / stream.time_base

    def place(packet: av.Packet) -> int:  # in frames of the film
        return round(((packet.pts or 0) - zero) / second * sample.fps)

    early = max(0, sample.start - trim)
    container.seek(zero + int(early / sample.fps * second), stream=stream)
    packets: list[av.Packet] = []
    for packet in container.demux(stream):
        if packet.pts is None or packet.dts is None:
            if packet.size:
                return []  # without times, its place is unknown
            continue
        if not packets:
            if not packet.is_keyframe or place(packet) < early:
                continue
            if place(packet) > sample.start + trim:
                return []
        elif place(packet) >= sample.start + sample.frames:
            break
        elif packet.pts < (packets[0].pts or 0):
            continue  # it refers to frames before the key frame
        packets.append(packet)
    return packets


def _samples(out: Path, kept: list[Row]) -> Iterator[tuple[Row, ClipSample]]:
    """Yields the kept rows of each split with the samples that read them."""
    for split in ("train", "eval"):
        rows = [row for row in kept if row["split"] == split]
        if rows:
            yield from zip(rows, ClipsSource(out / table.CLIPS / split), strict=True)


def _name(row: Row) -> str:
    return f"{row['clip_id'][:32]}{'.mp4' if row['fps'] else '.png'}"

"""Reading of videos, with PyAV (FFmpeg)."""

import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import av.filter
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace
from PIL import Image

from soraxla.core.errors import UserError
from soraxla.media import hdr
from soraxla.media.pictures import rgb, too_large
from soraxla.media.timing import Timed

_GAP = 600  # seconds between frames: more is a broken time stamp
_HOLE = 1024  # bytes between packets that belong to none
_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED
# FFmpeg's picture readers take damaged files; pictures are read by Pillow.
_STILLS = ("gif", "apng", "image2", "webp", "webp_anim")
_OLD_PYAV = int(av.__version__.partition(".")[0]) < 19


class _Stamped(NamedTuple):
    start: float
    end: float
    frame: av.VideoFrame


@contextlib.contextmanager
def opened_video(path: Path):
    """Yields (container, video stream); turns FFmpeg's errors into UserError.

    Of several streams it is the default one, or else the largest.
    """
    try:
        with _open(path) as container:
            name = container.format.name
            if name in _STILLS or name.endswith("_pipe"):
                raise UserError(f"{path}: is corrupt or not a picture; copy it again")
            streams = [
                s
                for s in container.streams.video
                if not s.disposition & Disposition.attached_pic
            ]
            if not streams:
                raise UserError(f"{path}: has no video stream (sound only?)")
            stream = max(streams, key=_rank)
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.FFmpegError as error:
        reason = error.strerror or "cannot be decoded"
        raise UserError(f"{path}: is corrupt or not a video ({reason})") from None
    except MemoryError:
        raise too_large(path) from None


def _open(path: Path):
    # PyAV 18 refuses tags that are not UTF-8, unless it may replace them.
    tags: dict[str, Any] = {"metadata_errors": "replace"} if _OLD_PYAV else {}
    return av.open(f"file:{path}", **tags)  # the prefix allows a colon in the name


def _rank(stream) -> tuple[bool, int]:
    default = bool(stream.disposition & Disposition.default)
    return default, (stream.width or 0) * (stream.height or 0)


def video_size(frame: av.VideoFrame, stream) -> tuple[int, int]:
    """Returns (height, width) of a frame in square pixels, after its rotation."""
    blank = np.empty((*_square(frame, stream), 0), np.uint8)
    height, width = _turn(blank, frame).shape[:2]
    return height, width


def _square(frame: av.VideoFrame, stream) -> tuple[int, int]:
    """Returns (height, width) of a frame whose pixels are made square."""
    ratio = float(stream.sample_aspect_ratio or 1)
    # Players ignore what rounding leaves, and what no camera makes.
    if abs(ratio - 1) < 0.01 or not 0.25 <= ratio <= 4:
        return frame.height, frame.width
    return frame.height, round(frame.width * ratio)


# --- Time -------------------------------------------------------------------------


def average_rate(path: Path, container, stream) -> float:
    """Returns a stream's frames per second.

    MP4 and AVI have a table of frames, from which FFmpeg knows it. The headers of other
    containers state a nominal rate or none, so their packets are counted, undecoded.
    """
    stated = stream.average_rate
    tabled = stream.frames or container.format.name in ("mpeg", "mpegts")
    if not (stated and tabled):
        status = path.stat()
        counted = _counted_rate(path, status.st_size, status.st_mtime_ns, stream.index)
        stated = counted or stated
    return float(stated or 25)  # FFmpeg's rate for streams without time stamps


@functools.lru_cache(maxsize=4096)
def _counted_rate(path: Path, size: int, modified: int, index: int) -> float | None:
    """Returns frames / seconds of a stream, or its stated rate if that agrees."""
    first = last = length = count = 0
    with _open(path) as container:
        stream = container.streams[index]
        with contextlib.suppress(av.error.FFmpegError):  # decoding reports it
            for packet in container.demux(stream):
                stamp = packet.dts if packet.pts is None else packet.pts
                if not packet.size or stamp is None:
                    continue
                if count == 0 or stamp > last:
                    last, length = stamp, packet.duration or 0
                first = min(stamp, first) if count else stamp
                count += 1
        if count < 2 or first == last or stream.time_base is None:
            return None
        span = float((last - first) * stream.time_base)
        stated = float(getattr(stream, "average_rate", None) or 0)
        if stated and abs(span * stated - (count - 1)) <= 1:
            return stated
        # Without durations, the last frame is as long as the others.
        tail = float(length * stream.time_base) or span / (count - 1)
        return count / (span + tail)


def _stamped(path: Path, container, stream, rate: float) -> Iterator[_Stamped]:
    """Yields all frames with times from 0; raises UserError if the file is cut off."""
    packets, first, end, start, slack = 0, None, 0.0, 0.0, 0.0
    order: deque[float] = deque()  # AVI has time stamps in decoding order only
    for packet in _packets(path, container, stream):
        packets += packet.size > 0
        if packet.is_corrupt:
            raise UserError(f"{path}: is truncated ({_seconds(end)} can be read)")
        if packet.size and packet.dts is not None and container.format.name == "avi":
            order.append(float(packet.dts * packet.time_base))
        for frame in packet.decode():
            time = order.popleft() if order else frame.time
            if frame.is_corrupt:
                if first is None:  # a broadcast may begin between two key frames
                    continue
                raise UserError(f"{path}: is corrupt at {_seconds(end)}; copy it again")
            time = end if time is None else time
            first = time if first is None else first
            before, start = start, max(time - first, 0.0)
            length = float((frame.duration or 0) * (frame.time_base or 0))
            if start - end > _GAP:
                raise UserError(
                    f"{path}: has a gap of {_seconds(start - end)} in its time stamps; "
                    "re-encode it"
                )
            # Without durations, the length of the last frame is unknown.
            slack = max(slack, 0.75 / rate, 0.0 if length else start - before)
            end = max(end, start + (length or 1 / rate))
            yield _Stamped(start, end, frame)
    if first is None:
        raise UserError(f"{path}: holds no video frame that can be decoded")
    declared = declared_seconds(container, stream)
    missing = packets < stream.frames if stream.frames else True
    # The declared length counts from 0, even if the first frame is later.
    if missing and max(first, 0.0) + end < declared - slack:
        span = f"{_seconds(end)} of {_seconds(declared)}"
        raise UserError(f"{path}: is truncated ({span} can be read)")


def _packets(path: Path, container, stream) -> Iterator[av.Packet]:
    """Yields a stream's packets; raises UserError if bytes between them are lost.

    FFmpeg skips a damaged part of a Matroska file without an error. There, time passes
    between two packets of the stream, and bytes before the second belong to no packet.
    """
    matroska = "matroska" in container.format.name
    block = end = lost = 0  # the last packet's place, and bytes of no packet
    shown = None
    for packet in container.demux() if matroska else container.demux(stream):
        if matroska and packet.size and packet.pos is not None:
            # Packets of one block have one position.
            lost = max(lost, packet.pos - end) if end and packet.pos > block else lost
            end = packet.size + (end if packet.pos == block else packet.pos)
            block = packet.pos
        if packet.stream.index != stream.index:
            continue
        if packet.size and packet.dts is not None:
            step = (
                0 if shown is None else float((packet.dts - shown) * packet.time_base)
            )
            if lost > _HOLE and step * float(stream.average_rate or 25) > 1.5:
                at = _seconds(float(shown * packet.time_base))
                raise UserError(f"{path}: is corrupt at {at}; copy it again")
            shown, lost = packet.dts, 0
        yield packet


def declared_seconds(container, stream) -> float:
    """Returns the length that the header states; 0 if it states none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska and WebM have a tag per stream, or else one length for all streams.
    with contextlib.suppress(KeyError, ValueError):
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    only_stream = len(container.streams) == 1
    return (
        container.duration / av.time_base if only_stream and container.duration else 0.0
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


# --- Pixels -----------------------------------------------------------------------


def decode(path: Path, container, stream, rate: float) -> Iterator[Timed]:
    """Yields all frames of a video as RGB, with times from 0.

    Raises:
        UserError: the video is corrupt, truncated, or changes its size.
    """
    shape = None
    for start, end, frame in _deinterlaced(
        _stamped(path, container, stream, rate), stream
    ):
        pixels = _turn(_pixels(frame, _square(frame, stream)), frame)
        if shape is not None and pixels.shape != shape:
            raise UserError(
                f"{path}: changes size from {shape[1]}x{shape[0]} to "
                f"{pixels.shape[1]}x{pixels.shape[0]} at {_seconds(start)}; "
                "re-encode it at one size"
            )
        shape = pixels.shape
        yield Timed(start, end, pixels)


def _deinterlaced(stamped: Iterator[_Stamped], stream) -> Iterator[_Stamped]:
    """Yields progressive frames; a filter makes them of interlaced ones."""
    graph, waiting = None, deque()
    for item in stamped:
        if graph is None and item.frame.interlaced_frame:
            graph = av.filter.Graph()
            graph.link_nodes(
                graph.add_buffer(template=stream),
                graph.add("w3fdif", "mode=frame:deint=interlaced"),
                graph.add("buffersink"),
            ).configure()
        if graph is None:
            yield item
            continue
        waiting.append(item)
        graph.vpush(item.frame)
        yield from _pulled(graph, waiting)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph, waiting)


def _pulled(graph: av.filter.Graph, waiting: deque) -> Iterator[_Stamped]:
    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
        while waiting:
            frame = graph.vpull()
            yield waiting.popleft()._replace(frame=frame)


def _pixels(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if frame.format.components and len(frame.format.components) in (2, 4):
        rgba = frame.to_ndarray(format="rgba", height=height, width=width)
        return rgb(Image.fromarray(rgba))
    if frame.color_trc in (hdr.PQ, hdr.HLG):
        wide = frame.to_ndarray(format="rgb48le", height=height, width=width)
        return hdr.to_srgb(wide, frame.color_trc)
    # Players decode untagged high-definition video as BT.709 and the rest as BT.601.
    untagged = frame.colorspace == _UNTAGGED
    space = Colorspace.ITU709 if untagged and frame.height >= 720 else None
    return frame.to_ndarray(
        format="rgb24", height=height, width=width, src_colorspace=space
    )


def _turn(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Applies the frame's display matrix if it rotates by 90° steps or mirrors."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return pixels
    # [[a, b, u], [c, d, v], [x, y, w]]: a source pixel (p, q) is shown at
    # (a p + c q + x, b p + d q + y).
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5]
    if a == 0 and d == 0 and b != 0 and c != 0:
        pixels, mirror_x, mirror_y = np.swapaxes(pixels, 0, 1), c < 0, b < 0
    else:
        mirror_x, mirror_y = a < 0, d < 0
    pixels = pixels[:, ::-1] if mirror_x else pixels
    return np.ascontiguousarray(pixels[::-1] if mirror_y else pixels)

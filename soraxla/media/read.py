"""Video and picture files in and out, on PyAV (FFmpeg) and Pillow.

A picture is a clip of one frame and 0 fps; an animated GIF, WebP or PNG is a clip.
Reading streams: one frame is held at a time, so that an 8K film costs no more memory
than a few of its frames. Writing is in `soraxla.video_write`, handed on from here.

Time. A clip is read at its average rate r = frames / seconds. Frame k of the reading is
the file's frame whose time stamp is nearest to k / r seconds after the first one, so a
constant-rate file comes out frame by frame, and one of variable rate keeps its speed.

Orientation. Right-angle display matrices (phone videos) and EXIF orientations
(phone pictures) are applied; sizes are always those after turning. Pixels are taken
as square.
"""

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import numpy as np
from av.video.reformatter import Colorspace
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from soraxla.core.errors import UserError
from soraxla.media.write import check_writable, write_video

__all__ = [
    "MEDIA_SUFFIXES",
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "VideoInfo",
    "check_writable",
    "probe",
    "read_clip",
    "read_frames",
    "write_video",
]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".ts", ".ogv", ".flv", ".wmv", ".3gp"),
)
MEDIA_SUFFIXES = PICTURE_SUFFIXES + VIDEO_SUFFIXES

_ANIMATED = ("GIF", "WEBP", "PNG")  # not MPO or TIFF: their frames are other pictures
_GAP = 600  # seconds between frames that are no film's, but a broken stamp's
_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED
_EXIF_ORIENTATION, _EXIF_SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file says of itself; sizes in pixels as displayed, after turning."""

    height: int
    width: int
    frames: int | None  # None where the container does not say
    fps: float  # average rate; 0.0 for a picture
    is_image: bool


class _Timed(NamedTuple):
    start: float  # seconds after the first frame
    end: float
    pixels: np.ndarray  # (H, W, 3) uint8


# --- Reading ----------------------------------------------------------------------


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, rate and length of a media file; decodes at most its first frame.

    (An animated picture states its rate frame by frame, so all of it is looked at.)
    Raises UserError that names the file and what is wrong with it.
    """
    path = _existing(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        with _opened_picture(path) as im:
            width, height = im.size
            if im.format == "TIFF":  # which Pillow itself turns, once it is decoded
                width, height = ImageOps.exif_transpose(im).size
            elif im.getexif().get(_EXIF_ORIENTATION) in _EXIF_SIDEWAYS:
                width, height = height, width
            count = _picture_frames(im)
            fps = count / sum(_durations(im)) if count > 1 else 0.0
            return VideoInfo(
                height=height, width=width, frames=count, fps=fps, is_image=count == 1
            )
    with _opened_video(path) as (container, stream):
        for frame in container.decode(stream):
            blank = np.empty((frame.height, frame.width, 0), np.uint8)
            height, width = _turn(blank, frame).shape[:2]
            return VideoInfo(
                height=height,
                width=width,
                frames=stream.frames or None,
                fps=_average_rate(stream),
                is_image=False,
            )
    raise UserError(f"{path}: holds no video frame that can be decoded")


def read_frames(path: str | os.PathLike[str]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Streams the RGB frames of a clip on the constant grid of its average rate.

    Yields at least one uint8 (H, W, 3) array; a picture yields exactly one. Alpha is
    laid over white, but for VP8 and VP9, whose decoders drop it. Consecutive frames may
    be the same object: copy before writing.

    Raises UserError in one line for a file that is missing, empty,
    corrupt, without pictures, or truncated: a film cut short yields what it holds and
    then raises, so that no caller takes it for whole. (MPEG transport streams promise
    no length: theirs is what they hold.)
    """
    path = _existing(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        with _opened_video(path) as (container, stream):
            timed = _decode(path, container, stream)
            yield from _constant_rate(timed, _average_rate(stream))
        return
    with _opened_picture(path) as im:
        count = _picture_frames(im)
        if count == 1:
            yield _rgb(im)
        else:
            durations = _durations(im)
            yield from _constant_rate(_animation(im, durations), count / sum(durations))


def read_clip(
    path: str | os.PathLike[str], most: int | None = None
) -> UInt8[np.ndarray, "t h w 3"]:
    """A clip as one uint8 (T, H, W, 3) array, of long ones `most` frames."""
    return np.stack(list(islice(read_frames(path), most)))


def _constant_rate(timed: Iterable[_Timed], rate: float) -> Iterator[np.ndarray]:
    """The frame nearest to each k / rate, k = 0, 1, …, until the last frame ends."""
    k, last = 0, None
    for frame in timed:
        while last is not None and k / rate < (last.start + frame.start) / 2:
            yield last.pixels
            k += 1
        last = frame
    # Half a grid step of slack: rounded time stamps must not add or drop a frame.
    while last is not None and (k == 0 or k < last.end * rate - 0.5):
        yield last.pixels
        k += 1


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty (0 bytes)")
    return path


# --- Films, through PyAV ----------------------------------------------------------


@contextlib.contextmanager
def _opened_video(path: Path):
    """Yields (container, first video stream); turns FFmpeg's errors into UserError."""
    try:
        with av.open(f"file:{path}") as container:  # a name may hold a colon
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise UserError(f"{path}: has no video stream (sound only?)")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
    except av.error.FFmpegError as error:
        reason = error.strerror or "cannot be decoded"
        raise UserError(f"{path}: is corrupt or not a video ({reason})") from None
    except MemoryError:
        raise _too_large(path) from None


def _too_large(path: Path) -> UserError:
    return UserError(f"{path}: does not fit into memory; make it smaller")


def _is_cover(stream) -> bool:
    return "ATTACHED_PIC" in str(stream.disposition).upper()


def _average_rate(stream) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate or 25)  # FFmpeg's own rate for streams without time stamps


def _decode(path: Path, container, stream) -> Iterator[_Timed]:
    """Decodes all frames with times from 0; raises UserError if the file is cut."""
    rate, packets, first, shape = _average_rate(stream), 0, None, None
    end, start, slack = 0.0, 0.0, 0.0
    for packet in container.demux(stream):
        packets += packet.size > 0
        if packet.is_corrupt:
            raise UserError(f"{path}: is truncated ({_seconds(end)} can be read)")
        for frame in packet.decode():
            time = end if frame.time is None else frame.time
            first = time if first is None else first
            before, start = start, max(time - first, 0.0)
            length = float((frame.duration or 0) * (frame.time_base or 0))
            if start - end > _GAP:
                raise UserError(
                    f"{path}: has a gap of {_seconds(start - end)} in its time stamps; "
                    "re-encode it"
                )
            # How long a frame stays that does not say so is not known of the last one.
            slack = max(slack, 0.75 / rate, 0.0 if length else start - before)
            end = max(end, start + (length or 1 / rate))
            pixels = _turn(_video_pixels(frame), frame)
            if shape is not None and pixels.shape != shape:
                raise UserError(
                    f"{path}: changes size from {shape[1]}x{shape[0]} to "
                    f"{pixels.shape[1]}x{pixels.shape[0]} at {_seconds(start)}; "
                    "re-encode it at one size"
                )
            shape = pixels.shape
            yield _Timed(start, end, pixels)
    if shape is None:
        raise UserError(f"{path}: holds no video frame that can be decoded")
    declared = _declared_seconds(container, stream)
    missing = packets < stream.frames if stream.frames else True
    # Lengths are counted from 0, wherever the first frame stands.
    if missing and max(first or 0.0, 0.0) + end < declared - slack:
        span = f"{_seconds(end)} of {_seconds(declared)}"
        raise UserError(f"{path}: is truncated ({span} can be read)")


def _declared_seconds(container, stream) -> float:
    """The length the header promises; 0 where it promises none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska and WebM: a tag per stream, else one length for all streams together.
    with contextlib.suppress(KeyError, ValueError):
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    alone = len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration else 0.0


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _video_pixels(frame: av.VideoFrame) -> np.ndarray:
    if frame.format.components and len(frame.format.components) in (2, 4):
        return _rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    # Players take untagged high-definition video as BT.709 and the rest as BT.601.
    untagged = frame.colorspace == _UNTAGGED
    space = Colorspace.ITU709 if untagged and frame.height >= 720 else None
    return frame.to_ndarray(format="rgb24", src_colorspace=space)


def _turn(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Applies the frame's display matrix if it is a turn by 90° or a mirroring."""
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


# --- Pictures, through Pillow -----------------------------------------------------


@contextlib.contextmanager
def _opened_picture(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as im:
            yield im
    except UnidentifiedImageError:
        raise UserError(f"{path}: is corrupt or not a picture") from None
    except Image.DecompressionBombError:
        limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        raise UserError(f"{path}: is larger than {limit}") from None
    except MemoryError:
        raise _too_large(path) from None
    # Pillow's for broken files.
    except (OSError, SyntaxError, EOFError, IndexError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise UserError(f"{path}: is corrupt or truncated ({reason})") from None


def _picture_frames(im: Image.Image) -> int:
    return getattr(im, "n_frames", 1) if im.format in _ANIMATED else 1


def _durations(im: Image.Image) -> list[float]:
    """Seconds each frame of an animated picture is shown."""
    seconds = []
    for index in range(_picture_frames(im)):
        im.seek(index)
        im.load()  # WebP tells a frame's length only once it is decoded
        # Browsers show a frame without a length for a tenth of a second.
        seconds.append((im.info.get("duration") or 100) / 1000)
    return seconds


def _animation(im: Image.Image, durations: list[float]) -> Iterator[_Timed]:
    start = 0.0
    for index, duration in enumerate(durations):
        im.seek(index)
        yield _Timed(start, start + duration, _rgb(im))
        start += duration


def _rgb(im: Image.Image) -> np.ndarray:
    """Any mode to uint8 (H, W, 3): turned by EXIF, alpha over white, 16 to 8 bits."""
    im = ImageOps.exif_transpose(im)
    if im.mode in ("I", "F") or im.mode.startswith("I;16"):
        grey = np.nan_to_num(np.asarray(im, np.float64))
        # Floats in [0, 1] are taken as black to white, wide integers as 16 bits.
        scale = 255 if im.mode == "F" and grey.max() <= 1 else 1
        wide = im.mode.startswith("I;16") or (im.mode == "I" and grey.max() > 255)
        scale = 1 / 257 if wide else scale
        grey = np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if im.has_transparency_data:
        white = Image.new("RGBA", im.size, "white")
        im = Image.alpha_composite(white, im.convert("RGBA"))
    return np.array(im.convert("RGB"))

"""Reading of video and picture files, with PyAV (FFmpeg) and Pillow.

A picture is a clip of one frame and 0 fps; an animated GIF, WebP or PNG is a clip.
Readers stream: they hold one frame at a time, so an 8K video needs the memory of a few
of its frames.

Time. A clip is read at its average rate r = frames / seconds. Frame k of the result is
the file's frame whose time stamp is nearest to k / r seconds after the first one. A
file of constant rate comes out frame by frame; one of variable rate keeps its speed.

Orientation. Right-angle display matrices (phone videos) and EXIF orientations (phone
pictures) are applied, and all sizes are those after the rotation. Pixels are taken as
square.
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

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".ts", ".ogv", ".flv", ".wmv", ".3gp"),
)
MEDIA_SUFFIXES = PICTURE_SUFFIXES + VIDEO_SUFFIXES

_ANIMATED = ("GIF", "WEBP", "PNG")  # the frames of MPO and TIFF are separate pictures
_GAP = 600  # seconds between frames: more is a broken time stamp
_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED
_EXIF_ORIENTATION, _EXIF_SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The size, length and rate of a file; sizes are in pixels, after rotation."""

    height: int
    width: int
    frames: int | None  # None if the container does not state it
    fps: float  # average rate; 0.0 for a picture
    is_image: bool


class _Timed(NamedTuple):
    start: float  # seconds after the first frame
    end: float
    pixels: np.ndarray  # (H, W, 3) uint8


# --- Reading ----------------------------------------------------------------------


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Returns size, rate and length of a media file; decodes at most its first frame.

    An animated picture states its rate frame by frame, so all of it is decoded.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged or has no frame; the message names it.
    """
    path = _existing(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        with _opened_picture(path) as im:
            width, height = im.size
            if im.format == "TIFF":  # Pillow rotates it when it decodes it
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
    """Yields the RGB frames of a clip on the constant grid of its average rate.

    Each frame is a uint8 (H, W, 3) array; there is at least one, and a picture has
    exactly one. Transparent pixels are blended over white, except in VP8 and VP9, whose
    decoders drop the alpha channel. Consecutive frames may be the same object: copy
    before writing.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is empty, damaged, without pictures, or truncated. A
            truncated video yields its frames first, so that no caller takes it for
            complete. (MPEG transport streams state no length, so they are never
            truncated.)
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
    """Returns a clip as one uint8 (T, H, W, 3) array of at most `most` frames."""
    return np.stack(list(islice(read_frames(path), most)))


def _constant_rate(timed: Iterable[_Timed], rate: float) -> Iterator[np.ndarray]:
    """Yields the frame nearest to each k / rate, k = 0, 1, …, until the last ends."""
    k, last = 0, None
    for frame in timed:
        while last is not None and k / rate < (last.start + frame.start) / 2:
            yield last.pixels
            k += 1
        last = frame
    # Half a grid step of slack, so that rounded time stamps add or drop no frame.
    while last is not None and (k == 0 or k < last.end * rate - 0.5):
        yield last.pixels
        k += 1


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the name")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty (0 bytes); copy it again")
    return path


# --- Videos, with PyAV ------------------------------------------------------------


@contextlib.contextmanager
def _opened_video(path: Path):
    """Yields (container, first video stream); turns FFmpeg's errors into UserError."""
    try:
        with av.open(
            f"file:{path}"
        ) as container:  # the prefix allows a colon in the name
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
    return float(rate or 25)  # FFmpeg's rate for streams without time stamps


def _decode(path: Path, container, stream) -> Iterator[_Timed]:
    """Yields all frames with times from 0; raises UserError if the file is cut off."""
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
            # Without durations, the length of the last frame is unknown.
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
    # The declared length counts from 0, even if the first frame is later.
    if missing and max(first or 0.0, 0.0) + end < declared - slack:
        span = f"{_seconds(end)} of {_seconds(declared)}"
        raise UserError(f"{path}: is truncated ({span} can be read)")


def _declared_seconds(container, stream) -> float:
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


def _video_pixels(frame: av.VideoFrame) -> np.ndarray:
    if frame.format.components and len(frame.format.components) in (2, 4):
        return _rgb(Image.fromarray(frame.to_ndarray(format="rgba")))
    # Players decode untagged high-definition video as BT.709 and the rest as BT.601.
    untagged = frame.colorspace == _UNTAGGED
    space = Colorspace.ITU709 if untagged and frame.height >= 720 else None
    return frame.to_ndarray(format="rgb24", src_colorspace=space)


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


# --- Pictures, with Pillow --------------------------------------------------------


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
    # These are what Pillow raises for damaged files.
    except (OSError, SyntaxError, EOFError, IndexError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise UserError(f"{path}: is corrupt or truncated ({reason})") from None


def _picture_frames(im: Image.Image) -> int:
    return getattr(im, "n_frames", 1) if im.format in _ANIMATED else 1


def _durations(im: Image.Image) -> list[float]:
    """Returns how many seconds each frame of an animated picture is shown."""
    seconds = []
    for index in range(_picture_frames(im)):
        im.seek(index)
        im.load()  # WebP states a frame's duration only after it is decoded
        # Browsers show a frame without a duration for a tenth of a second.
        seconds.append((im.info.get("duration") or 100) / 1000)
    return seconds


def _animation(im: Image.Image, durations: list[float]) -> Iterator[_Timed]:
    start = 0.0
    for index, duration in enumerate(durations):
        im.seek(index)
        yield _Timed(start, start + duration, _rgb(im))
        start += duration


def _rgb(im: Image.Image) -> np.ndarray:
    """Converts any mode to uint8 (H, W, 3): EXIF rotation, alpha over white, 8 bits."""
    im = ImageOps.exif_transpose(im)
    if im.mode in ("I", "F") or im.mode.startswith("I;16"):
        grey = np.nan_to_num(np.asarray(im, np.float64))
        # Floats in [0, 1] span black to white; wide integers have 16 bits.
        scale = 255 if im.mode == "F" and grey.max() <= 1 else 1
        wide = im.mode.startswith("I;16") or (im.mode == "I" and grey.max() > 255)
        scale = 1 / 257 if wide else scale
        grey = np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if im.has_transparency_data:
        white = Image.new("RGBA", im.size, "white")
        im = Image.alpha_composite(white, im.convert("RGBA"))
    return np.array(im.convert("RGB"))

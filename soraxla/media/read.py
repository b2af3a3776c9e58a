"""Reading of video and picture files, recognised by their content.

A picture is a clip of one frame and 0 fps; an animated GIF, WebP, PNG or AVIF is a
clip. Readers stream: they hold one frame at a time, so an 8K video needs the memory of
a few of its frames.

Time. A clip is read at its average rate r = frames / seconds. Frame k of the result is
the file's frame whose time stamp is nearest to k / r seconds after the first one. A
file of constant rate comes out frame by frame; one of variable rate keeps its speed.

Shape. Right-angle display matrices (phone videos) and EXIF orientations (phone
pictures) are applied, pixels are made square, interlaced frames are made progressive,
and all sizes are those after it.

Colour. High dynamic range (PQ, HLG) and colour profiles become sRGB.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from soraxla.core.errors import UserError
from soraxla.media.lazy_video import LazyVideo
from soraxla.media.pictures import (
    animation,
    durations,
    frame_count,
    opened_picture,
    picture_size,
    rgb,
)
from soraxla.media.timing import constant_rate
from soraxla.media.videos import (
    average_rate,
    declared_seconds,
    decode,
    opened_video,
    video_size,
)

# In a folder without a list, files of these suffixes are media.
PICTURE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"),
    *(".gif", ".webp", ".avif", ".heic", ".heif"),
)
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts"),
    *(".m2ts", ".vob", ".ogv", ".flv", ".wmv", ".asf", ".3gp", ".mxf"),
)
MEDIA_SUFFIXES = PICTURE_SUFFIXES + VIDEO_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The size, length and rate of a file; sizes are in square pixels, as shown."""

    height: int
    width: int
    frames: int | None  # None if the container does not state it
    fps: float  # average rate; 0.0 for a picture
    is_image: bool
    seconds: float = 0.0  # of a video, as its container states; 0.0 if it does not


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Returns size, rate and length of a media file; decodes at most its first frame.

    An animated picture states its rate frame by frame, so all of it is decoded.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged or has no frame; the message names it.
    """
    path = _existing(path)
    with opened_picture(path) as im:
        if im is not None:
            height, width = picture_size(im)
            count = frame_count(im)
            fps = count / sum(durations(im)) if count > 1 else 0.0
            return VideoInfo(
                height=height, width=width, frames=count, fps=fps, is_image=count == 1
            )
    with opened_video(path) as (container, stream):
        for frame in container.decode(stream):
            height, width = video_size(frame, stream)
            return VideoInfo(
                height=height,
                width=width,
                frames=stream.frames or None,
                fps=average_rate(path, container, stream),
                is_image=False,
                seconds=declared_seconds(container, stream),
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
    with opened_picture(path) as im:
        if im is not None:
            count = frame_count(im)
            if count == 1:
                yield rgb(im)
            else:
                seconds = durations(im)
                yield from constant_rate(animation(im, seconds), count / sum(seconds))
            return
    with opened_video(path) as (container, stream):
        rate = average_rate(path, container, stream)
        yield from constant_rate(decode(path, container, stream, rate), rate)


def read_clip(
    path: str | os.PathLike[str], most: int | None = None
) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns a clip as one uint8 (T, H, W, 3) array of at most `most` frames."""
    return np.stack(list(islice(read_frames(path), most)))


def lazy_clip(path: str | os.PathLike[str], most: int | None = None) -> LazyVideo:
    """Returns a clip that is decoded whenever it is read, frame by frame.

    It is decoded once to count its frames and to find damage.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: as `read_frames`; or the clip has more than `most` frames, of which
            no more are decoded than that. When it is read, the file has become shorter.
    """
    info, count, height, width = probe(path), 0, 0, 0
    if most is not None and (info.frames or 0) > most:
        raise _too_long(path, f"{info.frames:,}", most)
    for count, frame in enumerate(read_frames(path), start=1):
        height, width = frame.shape[:2]
        if most is not None and count > most:
            raise _too_long(path, f"more than {most:,}", most)

    def read(start: int, stop: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        place = 0
        for place, frame in enumerate(islice(read_frames(path), stop), start=1):
            if place > start:
                yield frame
        if place < stop:
            raise UserError(f"{path}: has become shorter; start again")

    return LazyVideo((count, height, width, 3), read)


def _too_long(path: str | os.PathLike[str], found: str, most: int) -> UserError:
    return UserError(f"{path}: has {found} frames, expected at most {most:,}: cut it")


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a media file; name one in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the name")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty (0 bytes); copy it again")
    return path

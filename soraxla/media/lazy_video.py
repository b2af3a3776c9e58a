"""Videos that no memory holds: their frames are made when they are read."""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from soraxla.core.errors import UserError

Frame = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, eq=False)
class LazyVideo:
    """A uint8 video whose frames are made in order, anew whenever they are read.

    It has the shape, the length and the slices of an array (t, h, w, 3), and iterates
    over its frames like one. `numpy.asarray` holds all of them.

    Attributes:
        shape: (t, h, w, 3).
        read: yields the frames start…stop, which are within the video. Several may be
            one object: copy before writing.
    """

    shape: tuple[int, int, int, int]
    read: Callable[[int, int], Iterator[Frame]] = field(repr=False)
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Frame]:
        return self.read(0, len(self))

    def __getitem__(self, frames: slice) -> "LazyVideo":
        start, stop, step = frames.indices(len(self))
        assert step == 1
        shape = (max(stop - start, 0), *self.shape[1:])
        return LazyVideo(shape, lambda a, b: self.read(start + a, start + b))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        out = np.empty(self.shape, np.uint8)
        for place, frame in enumerate(self):
            out[place] = frame
        return out if dtype is None else out.astype(dtype)

    def each(
        self, change: Callable[[Frame], Frame], height: int, width: int
    ) -> "LazyVideo":
        """Returns the video with every frame changed to one of this size."""
        shape = (len(self), height, width, 3)
        return LazyVideo(shape, lambda a, b: map(change, self.read(a, b)))


Video = UInt8[np.ndarray, "_ _ _ 3"] | UInt8[LazyVideo, "_ _ _ 3"]


def lazy(video: Video) -> LazyVideo:
    """Returns a video, an array for example, as a lazy one."""
    if isinstance(video, LazyVideo):
        return video
    t, h, w, _ = video.shape
    return LazyVideo((t, h, w, 3), lambda a, b: iter(video[a:b]))


def joined(*parts: Video) -> LazyVideo:
    """Returns the videos one after the other; they have one size."""
    videos = [lazy(part) for part in parts]

    def read(start: int, stop: int) -> Iterator[Frame]:
        first = 0
        for video in videos:
            a, b = max(start - first, 0), min(stop - first, len(video))
            if a < b:
                yield from video.read(a, b)
            first += len(video)

    return LazyVideo((sum(map(len, videos)), *videos[0].shape[1:]), read)


class FrameStore:
    """Frames in one temporary file, which exists as long as a video of it is held."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def stored(self, video: Video) -> LazyVideo:
        """Returns the video with its frames in the file, to which they are appended.

        Raises:
            UserError: the folder of temporary files is full.
        """
        height, width = video.shape[1:3]
        size, places = height * width * 3, [self._append(frame) for frame in video]

        def read(start: int, stop: int) -> Iterator[Frame]:
            assert self._file is not None
            for place in places[start:stop]:
                self._file.seek(place)
                frame = np.frombuffer(self._file.read(size), np.uint8)
                yield frame.reshape(height, width, 3)

        return LazyVideo((len(video), height, width, 3), read)

    def _append(self, frame: Frame) -> int:
        """Returns the place of the frame in the file."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(frame.tobytes())
            self._file.flush()  # which says that the disk is full
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: cannot keep frames ({error.strerror}); name "
                "another folder by the environment variable TMPDIR"
            ) from None
        return place

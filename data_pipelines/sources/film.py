"""Clips cut from a film while it is read, without decoding it once for each."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from soraxla.core.errors import UserError
from soraxla.media.read import read_frames


class Film(threading.local):
    """The frames of one film, read on as long as its clips come in their order.

    Each thread has its own, so that several films are decoded at the same time.
    """

    def __init__(self, remedy: str) -> None:
        """Begins without a film; `remedy` ends the message about a shorter one."""
        self._remedy = remedy
        self._file: Path | None = None
        self._frames: Iterator[np.ndarray] = iter(())
        self._next = 0

    def read(self, file: Path, start: int, count: int) -> Iterator[np.ndarray]:
        """Yields `count` frames from `start`; raises UserError if the film ends."""
        if file != self._file or start < self._next:
            self._file, self._frames, self._next = file, read_frames(file), 0
        while self._next < start + count:
            frame = next(self._frames, None)
            if frame is None:
                self._file = None
                raise UserError(
                    f"{file}: has {self._next} frames, and a clip ends at "
                    f"{start + count}; {self._remedy}"
                )
            self._next += 1
            if self._next > start:
                yield frame

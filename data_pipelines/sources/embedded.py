"""Media that are stored inside other files, read through temporary files.

Readers of videos need a file. A temporary one (in TMPDIR) is removed with its last
frame, or when its frames are no longer needed.
"""

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipelines.sources.media import Media
from soraxla.core.errors import UserError
from soraxla.media.read import probe, read_frames


def open_embedded(data: Iterable[bytes], suffix: str, caption: str) -> Media:
    """Opens the bytes of a media file, which come in any number of parts.

    Raises:
        UserError: as `probe`, without the name of the temporary file.
        OSError: the temporary file cannot be written.
    """
    file = _TemporaryFile(data, suffix)
    try:
        info = probe(file.path)
    except UserError as error:
        file.remove()
        raise file.nameless(error) from None
    size = info.height, info.width
    return Media(caption, info.fps, _Frames(file), size=size)


class _TemporaryFile:
    def __init__(self, data: Iterable[bytes], suffix: str):
        number, name = tempfile.mkstemp(suffix, "soraxla-")
        self.path = Path(name)
        self.remove = weakref.finalize(self, self.path.unlink, missing_ok=True)
        with os.fdopen(number, "wb") as opened:
            for part in data:
                opened.write(part)

    def nameless(self, error: UserError) -> UserError:
        return UserError(str(error).removeprefix(f"{self.path}: "))


class _Frames(Iterator[np.ndarray]):
    """The frames of a temporary file, which is removed after the last."""

    def __init__(self, file: _TemporaryFile):
        self._file, self._frames = file, read_frames(file.path)

    def __next__(self) -> np.ndarray:
        try:
            return next(self._frames)
        except UserError as error:
            self._file.remove()
            raise self._file.nameless(error) from None
        except StopIteration:
            self._file.remove()
            raise

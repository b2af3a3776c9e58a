"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from soraxla.files.disk import naming


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` that replaces it when the block ends.

    An exception removes the new file and leaves the old one. A process that is killed
    leaves the new file under its temporary name, which the next call with the same
    `path` overwrites.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path):
            yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

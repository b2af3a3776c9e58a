"""Folders that appear whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from soraxla.core.errors import UserError
from soraxla.files.disk import naming


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder` that takes its name when the block ends.

    An exception removes it. A process that is killed leaves it under its temporary
    name; the next call with the same `folder` removes it.

    Raises:
        UserError: `folder` exists.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists; remove it or choose another name")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming(folder):
            yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

"""Folders that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from soraxla.core.errors import UserError
from soraxla.core.paths import Place, is_remote
from soraxla.files.disk import naming

if TYPE_CHECKING:
    from soraxla.core.remote import RemotePath


@contextlib.contextmanager
def atomic_folder(folder: Place) -> Iterator[Path]:
    """Yields an empty folder beside `folder` that takes its name when the block ends.

    An exception removes it. A process that is killed leaves it under its temporary
    name; the next call with the same `folder` removes it.

    A remote folder is uploaded when the block ends, with the file that makes it valid
    last; see `soraxla.core.remote.in_order`.

    Raises:
        UserError: `folder` exists.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists; remove it or choose another name")
    if is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="soraxla_") as temporary:
            partial = Path(temporary, folder.name)
            partial.mkdir()
            yield partial
            _upload(partial, folder)
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming(folder):
            yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _upload(partial: Path, folder: "RemotePath") -> None:
    from soraxla.core.remote import upload

    try:
        upload(partial, folder)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error says more
            folder.rmtree(missing_ok=True)
        raise

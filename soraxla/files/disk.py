"""Writes whose errors name the file."""

import contextlib
import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from soraxla.core.errors import UserError
from soraxla.core.paths import Place, fetched

# A full disk shows at any write, and Python then knows of no file.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds a file's name to an OSError of the disk that names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _OF_THE_DISK:
            error.filename = str(path)
        raise


def copy_tree(source: Place, target: Path) -> None:
    """Copies a folder, local or remote, without the `._NAME` files of macOS.

    Raises:
        UserError: a file cannot be read or written.
    """
    hidden = shutil.ignore_patterns("._*")
    try:
        shutil.copytree(fetched(source), target, dirs_exist_ok=True, ignore=hidden)
    except shutil.Error as error:
        _, copy, reason = error.args[0][0]
        raise UserError(f"{copy}: cannot be written ({reason})") from None


def save_tensors(
    tensors: Mapping[str, np.ndarray],
    path: Path,
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes a safetensors file with the permissions of other new files.

    Raises:
        UserError: the disk is full, or the file cannot be written for another reason.
        OSError: the folder is missing or read-only.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be written ({error})") from None
    path.chmod(mode)  # the library lets nobody but the owner read it

"""Locks that keep a folder to one run at a time."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import jax
import numpy as np
from jax.experimental import multihost_utils

from soraxla.core.errors import UserError
from soraxla.parallel.multihost import is_main

_LOCK = ".lock"


@contextlib.contextmanager
def folder_lock(workdir: Path) -> Iterator[None]:
    """Holds a lock on a folder until the block or the process ends.

    A mounted bucket has locks between processes of one machine only.

    Raises:
        UserError: another run holds the lock; raised in all processes alike.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        free, failed = True, None
        if is_main():
            try:
                free = _locked(stack.enter_context((workdir / _LOCK).open("w")))
            except OSError as error:
                free, failed = False, error
        if jax.process_count() > 1:
            free = bool(multihost_utils.broadcast_one_to_all(np.array(free)))
        if failed is not None:
            raise failed
        if not free:
            raise UserError(
                f"{workdir}: another run is at work here; wait for its end, or choose "
                "another folder"
            )
        yield


def _locked(file: IO[str]) -> bool:
    """Returns whether this process locked the file, or its file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise
    return True

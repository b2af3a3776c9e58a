"""Locks that keep a folder to one process of a machine; needs no JAX."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from soraxla.core.errors import UserError

_LOCK = ".lock"


@contextlib.contextmanager
def trying_lock(folder: Path) -> Iterator[bool]:
    """Yields whether this process holds the folder's lock until the block ends.

    The end of the process, by a kill too, releases it. A file system without locks
    counts as free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                raise
        yield True


def busy(folder: Path) -> UserError:
    """Returns the error for a folder that another run has locked."""
    return UserError(
        f"{folder}: another run is at work here; wait for its end, or choose another "
        "folder"
    )

"""Locks that keep a folder to one run at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from soraxla.parallel.local_lock import busy, trying_lock
from soraxla.parallel.multihost import is_main


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
                free = stack.enter_context(trying_lock(workdir))
            except OSError as error:
                free, failed = False, error
        if jax.process_count() > 1:
            free = bool(multihost_utils.broadcast_one_to_all(np.array(free)))
        if failed is not None:
            raise failed
        if not free:
            raise busy(workdir)
        yield

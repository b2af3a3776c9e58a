"""Work that several processes of one program share: writes, fetches and barriers.

Every process runs the same program on global arrays (`jax.distributed`).
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def is_main() -> bool:
    """Returns whether this process writes the files that are written once."""
    return jax.process_index() == 0


def fetch(array: jax.Array) -> np.ndarray:
    """Returns the whole array on every host; all processes must call it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def everywhere(function: Callable[[], T]) -> T:
    """Returns the value of a function that computes on this host only.

    An exception in one process ends the call in all of them: else the others would wait
    for it in their next collective.

    Raises:
        RuntimeError: another process failed.
    """
    if jax.process_count() == 1:
        return function()
    values: list[T] = []
    error: Exception | None = None
    try:
        values.append(function())
    except Exception as caught:
        error = caught
    failed = multihost_utils.process_allgather(np.array(error is not None))
    if error is not None:
        raise error
    if failed.any():
        names = ", ".join(map(str, np.flatnonzero(failed)))
        raise RuntimeError(f"process {names} failed; its log has the traceback")
    return values[0]


def barrier(name: str) -> None:
    """Waits until all processes have called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

"""Work that several processes of one program share: writes, fetches and barriers.

Every process runs the same program on global arrays (`jax.distributed`).
"""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from soraxla.core.errors import UserError

T = TypeVar("T")

_NONE, _MISTAKE, _BUG = range(3)  # kinds of an error, as processes exchange them


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
        UserError: another process met a mistake of the user's.
        RuntimeError: another process failed for another reason.
    """
    if jax.process_count() == 1:
        return function()
    values: list[T] = []
    error: Exception | None = None
    try:
        values.append(function())
    except Exception as caught:
        error = caught
    kinds = multihost_utils.process_allgather(np.array(_kind(error)))
    if error is not None:
        raise error
    if failed := np.flatnonzero(kinds).tolist():
        names = ", ".join(map(str, failed))
        if (kinds == _BUG).any():
            raise RuntimeError(f"process {names} failed; its log has the traceback")
        raise UserError(f"process {names} cannot go on; its log says why")
    return values[0]


def _kind(error: Exception | None) -> int:
    """Returns `_MISTAKE` of an error that the command line shows on one line."""
    if error is None:
        return _NONE
    of_a_file = isinstance(error, OSError) and error.filename is not None
    return _MISTAKE if of_a_file or isinstance(error, UserError) else _BUG


def gather(value: T) -> list[T]:
    """Returns the values of all processes, in their order; all must call it.

    Args:
        value: anything that can be pickled.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(data)] = data
    parts = multihost_utils.process_allgather(padded)
    return [
        pickle.loads(part[:size].tobytes())
        for part, size in zip(parts, sizes, strict=True)
    ]


def barrier(name: str) -> None:
    """Waits until all processes have called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

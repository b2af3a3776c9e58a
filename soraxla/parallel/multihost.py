"""Work that several processes of one program share: writes, fetches and barriers.

Every process runs the same program on global arrays (`jax.distributed`).
"""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_main() -> bool:
    """Returns whether this process writes the files that are written once."""
    return jax.process_index() == 0


def fetch(array: jax.Array) -> np.ndarray:
    """Returns the whole array on every host; all processes must call it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def barrier(name: str) -> None:
    """Waits until all processes have called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

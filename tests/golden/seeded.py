"""Random weights that both sides of a comparison draw alike, so none are stored.

NumPy's legacy generator is used because its stream is frozen for ever.
"""

import zlib
from collections.abc import Mapping

import numpy as np


def tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Returns a float32 tensor for each name, a function of only (seed, name, shape).

    Gains are near 1, biases near 0; matrices keep the size of their input.
    """
    return {name: _tensor(name, shape, seed) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    values = random.standard_normal(shape)
    if "norm" in name.lower() or "layrnorm" in name:
        gain = name.endswith("weight")
        values = 1 + 0.2 * values if gain else 0.2 * values
    elif name.endswith("bias"):
        values = 0.2 * values
    elif len(shape) > 1 and "embed" not in name and "shared" not in name:
        values = values / np.sqrt(np.prod(shape[1:]))
    return np.asarray(values, np.float32)

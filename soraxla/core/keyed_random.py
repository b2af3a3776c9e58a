"""Random numbers that stay the same functions of their keys. NumPy only.

Philox (Salmon et al., SC 2011) is keyed by (seed, purpose), and the number of the
visit, epoch or window is its counter. Only raw bits are used: NumPy keeps those the
same, and does not promise that for its distributions.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Shaped


def permutation(
    seed: int, purpose: str, number: int, length: int
) -> Int[np.ndarray, " length"]:
    """Returns the permutation of `length` items keyed by (seed, purpose, number)."""
    # In the counter's third word: counting up in the first never reaches it.
    bits = np.random.Philox(key=_key(seed, purpose), counter=[0, 0, number, 0])
    return np.argsort(bits.random_raw(length), kind="stable")


def uniforms(
    seed: int, purpose: str, first: int, length: int
) -> Float[np.ndarray, "length 4"]:
    """Returns four numbers in [0, 1) per visit, keyed by seed, purpose and visit."""
    # The counter goes up by one every four words: one count per visit.
    bits = np.random.Philox(key=_key(seed, purpose), counter=[first, 0, 0, 0])
    words = bits.random_raw(4 * length).reshape(length, 4)
    return (words >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=32)
def _key(seed: int, purpose: str) -> Shaped[np.ndarray, "2"]:
    spawn_key = (int.from_bytes(purpose.encode(), "big"),)
    return np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(2, "u8")

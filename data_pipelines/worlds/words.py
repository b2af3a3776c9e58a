"""Words for captions: articles, lists, and a choice of phrases."""

from collections.abc import Sequence

import numpy as np

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def article(noun: str) -> str:
    """Puts `a` or `an` before the noun: "an orange star"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(parts: Sequence[str]) -> str:
    """Joins parts: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def one_of(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    """Returns one of the phrases, each equally likely."""
    return phrases[int(rng.integers(len(phrases)))]

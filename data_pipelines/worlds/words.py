"""Words for captions: articles, lists, and one of several ways to say a thing."""

from collections.abc import Sequence

import numpy as np

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def article(noun: str) -> str:
    """`a` or `an` before the noun: "an orange star"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def one_of(rng: np.random.Generator, ways: Sequence[str]) -> str:
    """One of the ways to say it, each as likely."""
    return ways[int(rng.integers(len(ways)))]

"""Flags of doubtful captions: outliers of length, repetition, and near duplicates."""

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

FAR = 4.0  # scaled median deviations of the logarithm of a length
REPEATED = 0.34  # share of the groups of 3 words that occurred before
ALIKE = 0.8  # of the groups of 3 words that two captions have, the share of both
_FEW = 8  # captions below which none has an outlying length
_GROUP = 3  # words
_HASHES, _BANDS = 48, 12  # two captions of `ALIKE` share a band with 99.9 %


def flags(captions: Sequence[str]) -> list[list[str]]:
    """Returns the flags of each caption among others, in order.

    `length`: far more or fewer words than the others have. `repetition`: the caption
    repeats itself. `duplicate`: another caption has nearly the same words.
    """
    words = [re.findall(r"\w+", text.lower()) for text in captions]
    long, alike = _outlying(words), _duplicates(words)
    return [
        [
            name
            for name, is_set in (
                ("length", long[i]),
                ("repetition", _repetition(words[i]) > REPEATED),
                ("duplicate", i in alike),
            )
            if is_set
        ]
        for i in range(len(captions))
    ]


def _outlying(words: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns whether the length of each caption is far from the median's."""
    lengths = np.log1p([len(each) for each in words])
    if len(words) < _FEW:
        return np.zeros(len(words), bool)
    away = np.abs(lengths - np.median(lengths))
    # Were all captions of one length, any other would be far.
    return away > FAR * max(1.4826 * float(np.median(away)), 0.1)


def _groups(words: Sequence[str]) -> list[str]:
    if len(words) < _GROUP:
        return [" ".join(words)]
    return [" ".join(words[i : i + _GROUP]) for i in range(len(words) - _GROUP + 1)]


def _repetition(words: Sequence[str]) -> float:
    groups = _groups(words)
    return 1 - len(Counter(groups)) / len(groups)


def _duplicates(words: Sequence[Sequence[str]]) -> set[int]:
    """Returns the captions that have a near duplicate, found by bands of MinHash."""
    groups = [frozenset(_groups(each)) for each in words]
    first: dict[frozenset[str], int] = {}
    found: set[int] = set()
    for i, own in enumerate(groups):  # equal ones first: they may be many
        if own in first:
            found |= {i, first[own]}
        first.setdefault(own, i)
    bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for own, i in first.items():
        least = _least_hashes(own)
        for band, part in enumerate(np.split(least, _BANDS)):
            bands[band, part.tobytes()].append(i)
    for members in bands.values():
        for before, after in itertools.pairwise(members):
            pair = groups[before], groups[after]
            if len(pair[0] & pair[1]) >= ALIKE * len(pair[0] | pair[1]):
                found |= {before, after}
    return found


def _least_hashes(groups: frozenset[str]) -> np.ndarray:
    """Returns the least of each of 48 hashes over the groups of words."""
    digests = [
        hashlib.shake_256(group.encode()).digest(8 * _HASHES)
        for group in sorted(groups)
    ]
    return np.stack([np.frombuffer(each, np.uint64) for each in digests]).min(axis=0)

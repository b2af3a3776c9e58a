"""Segment ids of packed rows, for the tests of attention."""

import numpy as np


def row(*segments, length):
    """Ids of a row: segments of these lengths, then padding."""
    ids = np.repeat(np.arange(1, len(segments) + 1), np.asarray(segments, int))
    return np.pad(ids, (0, length - len(ids))).astype(np.int32)


def random_rows(rng, rows, length):
    """Returns rows of one segment, of many, of padding, or of up to 100 short ones."""
    out = []
    for _ in range(rows):
        most = rng.choice([0, 1, 5, 100])
        cuts = np.sort(rng.integers(0, length + 1, most + 1 if most else 0))
        segments = np.diff(cuts) if most != 1 else [length]
        out.append(row(*segments, length=length))
    return np.stack(out)

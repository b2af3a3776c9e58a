"""Bin packing: visits into the fewest rows, and rows of equal cost into steps.

Visits are packed by best-fit-decreasing (Johnson et al., SIAM J. Comput. 3, 1974) under
three budgets: tokens, text tokens, segments. NumPy only.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from soraxla.packing.pack import PackConfig


class Visit(NamedTuple):
    """A visit to a sample, with its conditions; see `conditioning.Conditions`."""

    number: int  # epoch·N + rank, as uint32; it keys the noise
    sample: int  # row of the index
    tokens: int
    text_tokens: int
    latent_frames: int  # from `start` on
    caption_kept: bool
    start: int = 0
    prefix: int = 0
    frames: int = 0
    tail: int = 0
    spatial: bool = False


ScheduledRow = tuple[Visit, ...]


def fewest_rows(visits: Sequence[Visit], config: PackConfig) -> list[list[Visit]]:
    """Returns rows by best-fit-decreasing, or best-fit in stream order if fewer.

    Decreasing order packs tokens best, but puts the smallest clips together at the
    end: where segments or text are the scarce budget those rows stay half empty
    (rows of 3072 tokens and 16 segments, ten samples: fill 0.86 against 0.97).
    """
    # Sorting is stable: visits of equal length keep the order of the stream.
    decreasing = sorted(visits, key=lambda visit: -visit.tokens)
    return min((_best_fit(order, config) for order in (decreasing, visits)), key=len)


def _best_fit(visits: Sequence[Visit], config: PackConfig) -> list[list[Visit]]:
    """Puts each visit in turn into the row it leaves fullest; ties go to the oldest."""
    rows: list[list[Visit]] = []
    text_left: list[int] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted; closed rows leave
    for visit in visits:
        place = bisect_left(room, (visit.tokens, -1))
        while place < len(room) and text_left[room[place][1]] < visit.text_tokens:
            place += 1
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = config.row_length, len(rows)
            rows.append([])
            text_left.append(config.text_length)
        rows[row].append(visit)
        text_left[row] -= visit.text_tokens
        left -= visit.tokens
        if left > 0 and len(rows[row]) < config.max_segments:
            insort(room, (left, row))
    return rows


def fill(rows: Iterable[Sequence[Visit]], config: PackConfig) -> float:
    """Returns the share of token places that hold a token."""
    tokens = [sum(visit.tokens for visit in row) for row in rows]
    return sum(tokens) / (len(tokens) * config.row_length)


def balance(rows: Sequence[ScheduledRow], batch_rows: int) -> list[list[ScheduledRow]]:
    """Returns steps of B rows each, whose rows have about the same cost.

    A synchronous step lasts as long as its slowest device. Rows are all about full and
    differ in the cost of attention, Σl² over their segments. A step gets neighbours in
    cost, the costliest beside the cheapest (snake order), so that any number of devices
    that divides B has about equal work, and the rows of a step do not depend on it.
    """
    cost = [-row_cost(row) for row in rows]
    order = np.argsort(cost, kind="stable").reshape(-1, batch_rows)
    snake = np.empty_like(order)
    snake[:, ::2] = order[:, : (batch_rows + 1) // 2]
    snake[:, 1::2] = order[:, : (batch_rows - 1) // 2 : -1]
    return [[rows[i] for i in step] for step in snake]


def row_cost(row: Sequence[Visit]) -> int:
    """Returns Σl², to which the cost of attention is proportional."""
    return sum(visit.tokens * visit.tokens for visit in row)


def imbalance(steps: Iterable[Sequence[Sequence[Visit]]], devices: int) -> float:
    """Returns the slowest device's Σl² over the mean device's, averaged over steps."""
    cost = np.array([[row_cost(row) for row in step] for step in steps], np.float64)
    of_device = cost.reshape(len(cost), devices, -1).sum(axis=2)
    return float((of_device.max(axis=1) / of_device.mean(axis=1)).mean())

"""Which clips share a row, and which rows a step. NumPy only.

Planning sees sizes, never media. Every visit to a sample is a *draw*; draws are
numbered without end, epoch after epoch, each epoch a permutation of the samples.
Windows of consecutive draws, running across the ends of epochs, are packed by
best-fit-decreasing (Johnson et al., SIAM J. Comput. 3, 1974) under three budgets:
tokens, text tokens, segments. The rows of 16 steps at a time are then dealt to steps
and devices by what they cost. All of it is a function of (index, spec, seed, batch
rows) alone, so where a run stands is three numbers: (window, row), where its
16 steps begin, and which of them is next.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from soraxla.core.keyed_random import permutation, uniforms
from soraxla.packing.bin_packing import ScheduledRow, Visit, balance, fewest_rows
from soraxla.packing.conditioning import (
    MEAN_FEW,
    Conditions,
    Stored,
    a_few,
    conditions_of,
    cut,
    harmonic,
)
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule_index import (
    ScheduleIndex,
    check_index,
    frame_tokens,
    most_tokens,
)

# Rows to a window, about. A window leaves part of its last row empty, half a row on
# average: 128 rows of 16,384 tokens of `benchmarks/sizes.json` are 0.992 full, 64 are
# 0.989. Ten small samples make a window of some 450 draws, planned in milliseconds.
_WINDOW_ROWS = 128

# Steps that rows are dealt to at once. With one row a device, 64 devices and the same
# mix, the worst device of a step costs 1.10 of the mean; 8 steps: 1.19, 32: 1.05. Fewer
# leave a step's rows more of a mixture.
_GROUP_STEPS = 16


class SchedulePosition(NamedTuple):
    """Where a plan stands: where the rows of a group of 16 steps begin, and which of
    its steps is next."""

    window: int
    row: int
    step: int


SCHEDULE_START = SchedulePosition(0, 0, 0)


def schedule_steps(
    index: ScheduleIndex,
    spec: PackConfig,
    *,
    seed: int,
    batch_rows: int,
    start: SchedulePosition = SCHEDULE_START,
) -> Iterator[tuple[SchedulePosition, list[ScheduledRow]]]:
    """Yields (the place after it, the B rows of a step) without end, from `start` on.

    Of D devices, rows [i·B/D, (i+1)·B/D) are device i's; see `deal`. Raises UserError
    before the first step if a sample of the index cannot be packed (`check_index`).
    """
    window, row, step = start
    while True:
        stream = schedule_rows(index, spec, seed=seed, window=window, row=row)
        planned = list(islice(stream, _GROUP_STEPS * batch_rows))
        steps = balance([visits for _, _, visits in planned], batch_rows)
        order = permutation(seed, "steps", window << 32 | row, len(steps))
        for number in range(step, len(steps)):
            yield SchedulePosition(window, row, number + 1), steps[order[number]]
        last_window, last_row, _ = planned[-1]
        window, row, step = last_window, last_row + 1, 0


def schedule_rows(
    index: ScheduleIndex, spec: PackConfig, *, seed: int, window: int = 0, row: int = 0
) -> Iterator[tuple[int, int, ScheduledRow]]:
    """Yields (window, row, draws) without end, starting at (window, row)."""
    for number in count(window):
        rows = schedule_window(index, spec, seed=seed, window=number)
        for place in range(row, len(rows)):
            yield number, place, rows[place]
        row = 0


def schedule_window(
    index: ScheduleIndex, spec: PackConfig, *, seed: int, window: int
) -> list[ScheduledRow]:
    """The rows of one window of draws, shuffled.

    Best-fit-decreasing gives those of the largest clips first, and steps that see
    large clips, then small, then pictures, would not be alike.
    """
    length = window_visits(index, spec)
    first = window * length
    samples = _drawn_samples(len(index), seed, first, length)
    frames, tokens, parts = _parts(index, spec, seed, first, samples)
    kept = uniforms(seed, "caption", first, length)[:, 0] >= spec.caption_dropout
    text = np.where(kept, index.text_length[samples], index.empty_text_length)
    numbers = (first + np.arange(length)) & 0xFFFFFFFF
    columns = (numbers, samples, tokens, text, frames, kept, *parts)
    visits = [Visit(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    rows = fewest_rows(visits, spec)
    order = permutation(seed, "rows", window, len(rows))
    return [tuple(rows[place]) for place in order]


@lru_cache(maxsize=2)
def window_visits(index: ScheduleIndex, spec: PackConfig) -> int:
    """How many draws are packed together: what fills about 128 rows.

    Raises UserError if any sample cannot be packed, see `check_index`.
    """
    check_index(index, spec)
    frames, tokens = most_tokens(index, spec, slice(None))
    steps = frames // index.patch[0]
    # Of a clip of n steps that is cut, n / (1 + 1/2 … + 1/n) are kept in the mean.
    cut_away = 1 - 1 / harmonic(steps)[steps - 1]
    tokens = tokens * (1 - spec.cut_share * cut_away)
    few = np.minimum(MEAN_FEW * frame_tokens(index, slice(None)), tokens)
    tokens = tokens + spec.next_share * (few - tokens)
    rows_a_draw = max(
        tokens.mean() / spec.row_length,
        index.text_length.mean() / spec.text_length,
        1 / spec.max_segments,
    )
    return math.ceil(_WINDOW_ROWS / rows_a_draw)


def _parts(
    index: ScheduleIndex,
    spec: PackConfig,
    seed: int,
    first: int,
    samples: Int[np.ndarray, " k"],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Conditions]:
    """Latent frames and tokens of draws, what is given appended, and what it is.

    A clip keeps what fits a row, or less where it is cut, or a few latent frames. What
    was encoded alone is only given beside a whole one.
    """
    pt, a_step = index.patch[0], frame_tokens(index, samples)
    most, _ = most_tokens(index, spec, samples)
    u = uniforms(seed, "cut", first, len(samples))
    frames = cut(u, most // pt, spec.cut_share) * pt
    tokens = frames // pt * a_step
    if index.stored is None:
        stored = Stored(*(np.zeros_like(frames) for _ in Stored._fields))
    else:
        stored = Stored(*(of_all[samples] for of_all in index.stored))
    whole, packed = (n == index.t[samples] for n in (frames, most))
    u = uniforms(seed, "given", first, len(samples))
    parts = conditions_of(spec.mixture, u, frames, Stored(*(whole * x for x in stored)))
    u = uniforms(seed, "next", first, len(samples))
    few = u[:, 0] < spec.next_share
    u[:, 0] /= spec.next_share or 1.0  # even again, of those few
    tails = packed * stored.tails * (spec.mixture.both_ends > 0)
    own, windows = a_few(u, most, tails)
    parts = Conditions(
        *(np.where(few, a, b) for a, b in zip(windows, parts, strict=True))
    )
    kept = np.where(few, own, frames - parts.start)
    total = (kept + parts.appended) // pt * a_step
    fits = total <= spec.row_length
    parts = Conditions(*(column * fits for column in parts))
    return np.where(fits, kept, frames), np.where(fits, total, tokens), parts


def _drawn_samples(
    samples: int, seed: int, first: int, length: int
) -> Int[np.ndarray, " length"]:
    """The samples of draws first … first + length − 1."""
    drawn: list[np.ndarray] = []
    epoch, rank = divmod(first, samples)
    while length > 0:
        order = _epoch(seed, epoch, samples)[rank : rank + length]
        drawn.append(order)
        length -= len(order)
        epoch, rank = epoch + 1, 0
    return np.concatenate(drawn)


# An epoch of a large dataset serves thousands of windows, one after the other.
@lru_cache(maxsize=1)
def _epoch(seed: int, number: int, samples: int) -> Int[np.ndarray, " samples"]:
    return permutation(seed, "epoch", number, samples)

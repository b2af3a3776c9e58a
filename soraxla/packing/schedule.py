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
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from soraxla.core.errors import UserError
from soraxla.core.keyed_random import permutation, uniforms
from soraxla.packing.conditioning import (
    MEAN_FEW,
    TASKS,
    Given,
    Stored,
    a_few,
    cut,
    given,
    harmonic,
)
from soraxla.packing.pack import PackConfig

# Rows to a window, about. A window leaves part of its last row empty, half a row on
# average: 128 rows of 16,384 tokens of `benchmarks/sizes.json` are 0.992 full, 64 are
# 0.989. Ten small samples make a window of some 450 draws, planned in milliseconds.
_WINDOW_ROWS = 128

# Steps that rows are dealt to at once. With one row a device, 64 devices and the same
# mix, the worst device of a step costs 1.10 of the mean; 8 steps: 1.19, 32: 1.05. Fewer
# leave a step's rows more of a mixture.
_GROUP_STEPS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class ScheduleIndex:
    """What planning knows of N samples: one array entry a sample."""

    t: Int[np.ndarray, " n"]  # latent frames; 1 for a picture
    h: Int[np.ndarray, " n"]  # latents
    w: Int[np.ndarray, " n"]
    fps: Float[np.ndarray, " n"]  # of the pixels; 0 for a picture
    text_length: Int[np.ndarray, " n"]  # text tokens of the caption
    height: Int[np.ndarray, " n"]  # pixels
    width: Int[np.ndarray, " n"]
    empty_text_length: int  # text tokens of the empty caption
    patch: tuple[int, int, int] = (1, 2, 2)
    stored: Stored | None = None  # what draws can be given beside a clip's beginning

    def __len__(self) -> int:
        return len(self.t)


class Visit(NamedTuple):
    """One visit to one sample, and what is given of it; see `mixture.Given`."""

    number: int  # epoch·N + rank, as uint32: what noise is keyed by
    sample: int  # row of the index
    tokens: int
    text_tokens: int
    latent_frames: int  # kept, from `start` on; see `_parts`
    caption_kept: bool
    start: int = 0
    prefix: int = 0
    alone: int = 0
    tail: int = 0
    spatial: bool = False


ScheduledRow = tuple[Visit, ...]


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


def balance(rows: Sequence[ScheduledRow], batch_rows: int) -> list[list[ScheduledRow]]:
    """Steps of B rows each, all of about the same cost.

    In lock step a step lasts as long as its worst device. What rows differ in is the
    cost of attention, Σl² over their segments: they are all about full. So a step gets
    neighbours in cost, the costliest beside the cheapest (snake order): any number of
    devices that divides B has about the same to do, and the rows of a step do not
    depend on it.
    """
    cost = [-row_cost(row) for row in rows]
    order = np.argsort(cost, kind="stable").reshape(-1, batch_rows)
    snake = np.empty_like(order)
    snake[:, ::2] = order[:, : (batch_rows + 1) // 2]
    snake[:, 1::2] = order[:, : (batch_rows - 1) // 2 : -1]
    return [[rows[i] for i in step] for step in snake]


def row_cost(row: Sequence[Visit]) -> int:
    """Σl², what attention costs."""
    return sum(visit.tokens * visit.tokens for visit in row)


def imbalance(steps: Iterable[Sequence[Sequence[Visit]]], devices: int) -> float:
    """Σl² of a step's worst device against that of its mean one, the mean of steps."""
    cost = np.array([[row_cost(row) for row in step] for step in steps], np.float64)
    of_device = cost.reshape(len(cost), devices, -1).sum(axis=2)
    return float((of_device.max(axis=1) / of_device.mean(axis=1)).mean())


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
    frames, tokens = _kept(index, spec, slice(None))
    steps = frames // index.patch[0]
    # Of a clip of n steps that is cut, n / (1 + 1/2 … + 1/n) are kept in the mean.
    cut_away = 1 - 1 / harmonic(steps)[steps - 1]
    tokens = tokens * (1 - spec.cut_share * cut_away)
    few = np.minimum(MEAN_FEW * _frame_tokens(index, slice(None)), tokens)
    tokens = tokens + spec.next_share * (few - tokens)
    rows_a_draw = max(
        tokens.mean() / spec.row_length,
        index.text_length.mean() / spec.text_length,
        1 / spec.max_segments,
    )
    return math.ceil(_WINDOW_ROWS / rows_a_draw)


def fill(rows: Iterable[Sequence[Visit]], spec: PackConfig) -> float:
    """Share of token places that hold a token."""
    tokens = [sum(visit.tokens for visit in row) for row in rows]
    return sum(tokens) / (len(tokens) * spec.row_length)


def check_index(index: ScheduleIndex, spec: PackConfig) -> None:
    """Raises UserError when a sample cannot be packed into a row of `spec`.

    Refused: an index with no sample, latents the patch does not divide, a picture
    (or one latent frame of a clip) over the row, a caption over the text budget or
    of no token, a clip without a frame rate.
    """
    if len(index) == 0:
        raise UserError("the index holds no sample: prepare a dataset with at least 1")

    def size(i: int) -> str:
        return f"sample {i} ({index.width[i]}x{index.height[i]} pixels)"

    sides = np.stack([index.t, index.h, index.w])
    bad = ((sides < 1) | (sides % np.array(index.patch)[:, None] != 0)).any(axis=0)
    if bad.any():
        worst = int(bad.argmax())
        raise UserError(
            f"{size(worst)} has latents of {tuple(sides[:, worst].tolist())} (t, h, w),"
            f" which patches of {index.patch} do not divide: prepare the dataset again"
        )
    frame = _frame_tokens(index, slice(None))
    worst = int(frame.argmax())
    if frame[worst] > spec.row_length:
        what = "a picture" if index.t[worst] == 1 else "one latent frame"
        raise UserError(
            f"{size(worst)} has {frame[worst]} tokens in {what}, more than a row of"
            f" {spec.row_length}: set row_length to at least {frame[worst]}"
        )
    longest = max(int(index.text_length.max()), index.empty_text_length)
    if longest > spec.text_length:
        raise UserError(
            f"the longest caption has {longest} text tokens, more than a row's"
            f" {spec.text_length}: set text_length to at least {longest}"
        )
    if min(int(index.text_length.min()), index.empty_text_length) < 1:
        raise UserError(
            "a caption has no text token: its encoder must give at least 1 for any text"
        )
    _check_mixture(index, spec)
    still = (index.t > 1) & ~(index.fps > 0)
    if still.any():
        worst = int(still.argmax())
        raise UserError(
            f"{size(worst)} is a clip of {index.t[worst]} latent frames with no frame"
            f" rate (fps {index.fps[worst]}): prepare the dataset again"
        )


def _check_mixture(index: ScheduleIndex, spec: PackConfig) -> None:
    asked = [task for task in TASKS[1:] if getattr(spec.mixture, task)]
    if spec.next_share:
        asked.append("next_share")
    if asked and index.patch[0] != 1:
        raise UserError(
            f"the mixture asks for {asked[0]}, but patches of {index.patch} join latent"
            " frames: set its shares to none 1 and next_share to 0, or prepare with "
            "patches of one frame"
        )
    lacking = [x for x in asked if x not in ("first", "prefix", "next_share")]
    if lacking and index.stored is None:
        raise UserError(
            f"the mixture asks for {', '.join(lacking)}, but the dataset holds no "
            "conditions: prepare it again with them, or set these shares to 0"
        )


def _frame_tokens(
    index: ScheduleIndex, samples: Int[np.ndarray, " k"] | slice
) -> Int[np.ndarray, " k"]:
    """Tokens of one step of the patch grid along time."""
    _, ph, pw = index.patch
    h, w = index.h[samples].astype(np.int64), index.w[samples].astype(np.int64)
    return (h // ph) * (w // pw)


def _kept(
    index: ScheduleIndex, spec: PackConfig, samples: Int[np.ndarray, " k"] | slice
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Most latent frames that are packed, and their tokens.

    Cutting a clip after any latent is exact: the VAE is causal, so the first latents
    of a clip are the latents of its first frames.
    """
    pt = index.patch[0]
    frame = _frame_tokens(index, samples)
    steps = np.minimum(index.t[samples] // pt, spec.row_length // frame)
    return steps * pt, steps * frame


def _parts(
    index: ScheduleIndex,
    spec: PackConfig,
    seed: int,
    first: int,
    samples: Int[np.ndarray, " k"],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Given]:
    """Latent frames and tokens of draws, what is given appended, and what it is.

    A clip keeps what fits a row, or less where it is cut, or a few latent frames. What
    was encoded alone is only given beside a whole one.
    """
    pt, a_step = index.patch[0], _frame_tokens(index, samples)
    most, _ = _kept(index, spec, samples)
    u = uniforms(seed, "cut", first, len(samples))
    frames = cut(u, most // pt, spec.cut_share) * pt
    tokens = frames // pt * a_step
    if index.stored is None:
        stored = Stored(*(np.zeros_like(frames) for _ in Stored._fields))
    else:
        stored = Stored(*(of_all[samples] for of_all in index.stored))
    whole, packed = (n == index.t[samples] for n in (frames, most))
    u = uniforms(seed, "given", first, len(samples))
    parts = given(spec.mixture, u, frames, Stored(*(whole * x for x in stored)))
    u = uniforms(seed, "next", first, len(samples))
    few = u[:, 0] < spec.next_share
    u[:, 0] /= spec.next_share or 1.0  # even again, of those few
    tails = packed * stored.tails * (spec.mixture.both_ends > 0)
    own, windows = a_few(u, most, tails)
    parts = Given(*(np.where(few, a, b) for a, b in zip(windows, parts, strict=True)))
    kept = np.where(few, own, frames - parts.start)
    total = (kept + parts.appended) // pt * a_step
    fits = total <= spec.row_length
    parts = Given(*(column * fits for column in parts))
    return np.where(fits, kept, frames), np.where(fits, total, tokens), parts


def longest(index: ScheduleIndex, spec: PackConfig) -> int:
    """Most latent frames that a row has of one clip."""
    return int(_kept(index, spec, slice(None))[0].max())


def fewest_rows(visits: Sequence[Visit], spec: PackConfig) -> list[list[Visit]]:
    """Best-fit-decreasing, or best-fit in stream order where that needs fewer rows.

    Decreasing order packs tokens best, but puts the smallest clips together at the
    end: where segments or text are the scarce budget those rows stay half empty
    (rows of 3072 tokens and 16 segments, ten samples: fill 0.86 against 0.97).
    """
    # Sorting is stable: draws of equal length keep the order of the stream.
    decreasing = sorted(visits, key=lambda visit: -visit.tokens)
    return min((_best_fit(order, spec) for order in (decreasing, visits)), key=len)


def _best_fit(visits: Sequence[Visit], spec: PackConfig) -> list[list[Visit]]:
    """Each draw in turn goes to the row it leaves fullest; ties go to the oldest."""
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
            left, row = spec.row_length, len(rows)
            rows.append([])
            text_left.append(spec.text_length)
        rows[row].append(visit)
        text_left[row] -= visit.text_tokens
        left -= visit.tokens
        if left > 0 and len(rows[row]) < spec.max_segments:
            insort(room, (left, row))
    return rows


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

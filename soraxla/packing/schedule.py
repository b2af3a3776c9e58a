"""The schedule of a training: the visits of each row, and the rows of each step.

The schedule sees sizes, never media. *Visits* to samples are numbered without end,
epoch after epoch; an epoch is a permutation of the samples (`visit_order.py`). Windows
of consecutive visits, which run across the ends of epochs, are packed into rows, and
the rows of 16 steps at a time are balanced over steps and devices by their cost. The
schedule is a function of (index, config, seed, batch rows), so three numbers resume it:
the (window, row) at which a group of 16 steps begins, and the next of these steps.
NumPy only.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from soraxla.core.keyed_random import permutation, uniforms
from soraxla.packing.bin_packing import ScheduledRow, Visit, balance, fewest_rows
from soraxla.packing.conditioning import (
    FEW_ENDS,
    GREYED,
    MEAN_FEW,
    ConditioningMixture,
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
    slices,
)
from soraxla.packing.tasks import SHARES

# About the rows of a window. Its last row stays half empty on average: 128 rows of
# 16,384 tokens of `benchmarks/sizes.json` are 0.992 full, 64 are 0.989. Ten small
# samples make a window of some 450 visits, scheduled in milliseconds.
_WINDOW_ROWS = 128

# Steps whose rows are balanced together. With one row a device, 64 devices and the same
# sizes, the slowest device of a step costs 1.10 of the mean; 8 steps: 1.19, 32: 1.05.
# With fewer steps, the
# rows of a step are more varied.
_GROUP_STEPS = 16

# A training folder records these. A training of other ones cannot be continued: its
# visits, or their weights in the objective, would change.
SCHEDULE_VERSION = 2
SCHEDULE_CONSTANTS = {
    "window_rows": _WINDOW_ROWS,
    "group_steps": _GROUP_STEPS,
    "mean_few": MEAN_FEW,
    "few_ends": FEW_ENDS,
    "greyed": GREYED,
}


class SchedulePosition(NamedTuple):
    """A position in the schedule: the first row of a group of 16 steps, and a step.

    `step` is the next one of the group.
    """

    window: int
    row: int
    step: int


SCHEDULE_START = SchedulePosition(0, 0, 0)


def schedule_steps(
    index: ScheduleIndex,
    config: PackConfig,
    *,
    seed: int,
    batch_rows: int,
    start: SchedulePosition = SCHEDULE_START,
) -> Iterator[tuple[SchedulePosition, list[ScheduledRow]]]:
    """Yields (the position after a step, the step's B rows) without end.

    Device i of D devices gets rows [i·B/D, (i+1)·B/D); see `balance`. Raises UserError
    before the first step if a sample of the index cannot be packed (`check_index`).
    """
    window, row, step = start
    while True:
        stream = schedule_rows(index, config, seed=seed, window=window, row=row)
        scheduled = list(islice(stream, _GROUP_STEPS * batch_rows))
        steps = balance([visits for _, _, visits in scheduled], batch_rows)
        order = permutation(seed, "steps", window << 32 | row, len(steps))
        for number in range(step, len(steps)):
            yield SchedulePosition(window, row, number + 1), steps[order[number]]
        last_window, last_row, _ = scheduled[-1]
        window, row, step = last_window, last_row + 1, 0


def visits_scheduled(
    index: ScheduleIndex,
    config: PackConfig,
    *,
    seed: int,
    batch_rows: int,
    position: SchedulePosition,
) -> int:
    """Returns how many visits the steps up to a position depend on.

    They are those of whole windows, up to the last one of the position's group.
    """
    window, row, _ = position
    stream = schedule_rows(index, config, seed=seed, window=window, row=row)
    *_, (last, _, _) = islice(stream, _GROUP_STEPS * batch_rows)
    return (last + 1) * window_visits(index, config)


def schedule_rows(
    index: ScheduleIndex,
    config: PackConfig,
    *,
    seed: int,
    window: int = 0,
    row: int = 0,
) -> Iterator[tuple[int, int, ScheduledRow]]:
    """Yields (window, row, visits) without end, starting at (window, row)."""
    for number in count(window):
        rows = schedule_window(index, config, seed=seed, window=number)
        for place in range(row, len(rows)):
            yield number, place, rows[place]
        row = 0


def schedule_window(
    index: ScheduleIndex, config: PackConfig, *, seed: int, window: int
) -> list[ScheduledRow]:
    """Returns the rows of one window of visits, shuffled.

    Best-fit-decreasing returns the rows of the largest clips first; without the shuffle
    steps would see large clips, then small ones, then pictures.
    """
    length = window_visits(index, config)
    first = window * length
    samples = index.visit_order.samples(seed, first, length)
    frames, tokens, parts = _parts(index, config, seed, first, samples)
    kept = uniforms(seed, "caption", first, length)[:, 0] >= config.caption_dropout
    text = np.where(kept, index.text_length[samples], index.empty_text_length)
    numbers = (first + np.arange(length)) & 0xFFFFFFFF
    columns = (numbers, samples, tokens, text, frames, kept, *parts)
    visits = [Visit(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    rows = fewest_rows(visits, config)
    order = permutation(seed, "rows", window, len(rows))
    return [tuple(rows[place]) for place in order]


def visits_of_share(
    index: ScheduleIndex, config: PackConfig, share: str
) -> list[Visit]:
    """Returns a visit of every sample that has conditions of a share of the mixture.

    The visits are whole, or what fits a row; their numbers are their samples'. They are
    the same whatever the mixture of `config`.

    Args:
        share: a name in `packing.tasks.SHARES`, but "none".
    """
    only = {"none": 0.0, share: 1.0, "middle": 0.0}
    config = replace(
        config, mixture=ConditioningMixture(**only), cut_share=0.0, next_share=0.0
    )
    samples = np.arange(len(index))
    frames, tokens, parts = _parts(index, config, 0, 0, samples)
    kept, text = np.ones(len(index), bool), index.text_length
    columns = (samples, samples, tokens, text, frames, kept, *parts)
    visits = [Visit(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    return [v for v in visits if v.prefix or v.frames or v.tail or v.spatial]


def mean_row_weight(index: ScheduleIndex, config: PackConfig, *, seed: int) -> float:
    """Returns the mean Σ√n of the first window's rows; n are the generated tokens.

    The surroundings of a hole count as generated: the schedule does not know the holes.
    """
    rows = schedule_window(index, config, seed=seed, window=0)
    visits, pt = [visit for row in rows for visit in row], index.patch[0]
    a_step = frame_tokens(index, np.array([visit.sample for visit in visits]))
    generated = (
        (visit.latent_frames - visit.prefix) // pt * int(tokens)
        for visit, tokens in zip(visits, a_step, strict=True)
    )
    # Rounded once, so every machine finds the same number.
    return math.fsum(map(math.sqrt, generated)) / len(rows)


@lru_cache(maxsize=2)
def window_visits(index: ScheduleIndex, config: PackConfig) -> int:
    """Returns how many visits fill about 128 rows, and so are packed together.

    Raises UserError if any sample cannot be packed, see `check_index`, or if all of a
    dataset's are held out.
    """
    check_index(index, config)
    index.visit_order.check()
    tokens = text = 0.0
    for stream in index.visit_order.streams:
        # A dataset that has grown keeps the windows that it had.
        began_with = stream.began_with
        samples = began_with.stop - began_with.start
        own_tokens = own_text = 0.0
        for part in slices(began_with):
            own_tokens += _mean_tokens(index, config, part).sum()
            own_text += index.text_length[part].sum(dtype=np.float64)
        tokens += stream.share * (own_tokens / samples)
        text += stream.share * (own_text / samples)
    rows_a_visit = max(
        tokens / config.row_length, text / config.text_length, 1 / config.max_segments
    )
    return math.ceil(_WINDOW_ROWS / rows_a_visit)


def _mean_tokens(
    index: ScheduleIndex, config: PackConfig, part: slice
) -> Float[np.ndarray, " k"]:
    """Returns the mean tokens of visits to each of some samples."""
    frames, tokens = most_tokens(index, config, part)
    steps = frames // index.patch[0]
    # A clip of n steps that is cut keeps n / (1 + 1/2 … + 1/n) of them in the mean.
    cut_away = 1 - 1 / harmonic(steps)[steps - 1]
    tokens = tokens * (1 - config.cut_share * cut_away)
    few = np.minimum(MEAN_FEW * frame_tokens(index, part), tokens)
    return tokens + config.next_share * (few - tokens)


def _parts(
    index: ScheduleIndex,
    config: PackConfig,
    seed: int,
    first: int,
    samples: Int[np.ndarray, " k"],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Conditions]:
    """Returns latent frames, tokens (appended ones included) and conditions of visits.

    A visit keeps the frames that fit a row, fewer if it is cut, or a few latent frames.
    Stored conditions are only used beside a whole clip.
    """
    pt, a_step = index.patch[0], frame_tokens(index, samples)
    most, _ = most_tokens(index, config, samples)
    u = uniforms(seed, "cut", first, len(samples))
    frames = cut(u, most // pt, config.cut_share) * pt
    tokens = frames // pt * a_step
    if index.stored is None:
        stored = Stored(*(np.zeros_like(frames) for _ in Stored._fields))
    else:
        # Narrow in the index, they would wrap in a product.
        columns = (column[samples].astype(np.int32) for column in index.stored)
        stored = Stored(*columns)
    whole, packed = (n == index.t[samples] for n in (frames, most))
    u = uniforms(seed, "given", first, len(samples))
    chances = {
        name: uniforms(seed, f"share {name}", first, len(samples))[:, 0]
        for name in SHARES
        if getattr(config.mixture, name) > 0
    }
    parts = conditions_of(
        config.mixture, chances, u, frames, Stored(*(whole * x for x in stored))
    )
    u = uniforms(seed, "next", first, len(samples))
    few = u[:, 0] < config.next_share
    u[:, 0] /= config.next_share or 1.0  # even again, of those few
    tails = packed * stored.tails * (config.mixture.both_ends > 0)
    own, windows = a_few(u, most, tails)
    parts = Conditions(
        *(np.where(few, a, b) for a, b in zip(windows, parts, strict=True))
    )
    kept = np.where(few, own, frames - parts.start)
    total = (kept + parts.appended) // pt * a_step
    fits = total <= config.row_length
    parts = Conditions(*(column * fits for column in parts))
    return np.where(fits, kept, frames), np.where(fits, total, tokens), parts

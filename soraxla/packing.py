"""Which clips share a row, and the rows themselves. NumPy only.

Planning sees sizes, never media. Every visit to a sample is a *draw*; draws are
numbered without end, epoch after epoch, each epoch a permutation of the samples.
Windows of consecutive draws, running across the ends of epochs, are packed by
best-fit-decreasing (Johnson et al., SIAM J. Comput. 3, 1974) under three budgets:
tokens, text tokens, segments. A window's plan is a function of (index, spec, seed,
window) alone, so where a run stands is two numbers: (window, row).

Randomness is Philox (Salmon et al., SC 2011) keyed by (seed, purpose) with the
number of the draw, epoch or window as its counter. Only raw bits are used: NumPy
keeps those the same for ever, and does not promise that for its distributions.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from soraxla.types import Array, PackedBatch


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """The budgets of a row, and how draws are dealt to rows.

    `window` draws are planned together. A window leaves its last row part empty, on
    average half a row, so windows should hold many rows: raise it when rows are much
    longer than clips.
    """

    row_length: int  # L, tokens
    text_length: int  # M, text tokens
    max_segments: int  # S, clips
    window: int = 256
    caption_dropout: float = 0.1  # share of draws given the empty caption

    def __post_init__(self) -> None:
        for name in ("row_length", "text_length", "max_segments", "window"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(
                f"caption_dropout must lie in [0, 1], got {self.caption_dropout}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanIndex:
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

    def __len__(self) -> int:
        return len(self.t)


class Draw(NamedTuple):
    """One visit to one sample."""

    draw: int  # epoch·N + rank, as uint32: what noise is keyed by
    sample: int  # row of the index
    tokens: int
    text_tokens: int
    latent_frames: int  # kept: a clip longer than a row keeps its first ones
    caption_kept: bool


PlannedRow = tuple[Draw, ...]


def plan_rows(
    index: PlanIndex, spec: PackSpec, *, seed: int, window: int = 0, row: int = 0
) -> Iterator[tuple[int, int, PlannedRow]]:
    """Yields (window, row, draws) without end, starting at (window, row).

    Raises ValueError before the first row if any sample of the index cannot be
    packed, naming the budget that would do.
    """
    check_index(index, spec)
    for number in count(window):
        rows = plan_window(index, spec, seed=seed, window=number)
        for place in range(row, len(rows)):
            yield number, place, rows[place]
        row = 0


def plan_window(
    index: PlanIndex, spec: PackSpec, *, seed: int, window: int
) -> list[PlannedRow]:
    """The rows of one window of `spec.window` draws, in training order.

    The rows are shuffled: best-fit-decreasing gives those of the largest clips first,
    and steps that see large clips, then small, then pictures, would not be alike.
    """
    first = window * spec.window
    samples = _drawn_samples(len(index), seed, first, spec.window)
    check_index(index, spec, samples)
    frames, tokens = _kept(index, spec, samples)
    uniform = _uniform(seed, "caption", first, spec.window)
    kept = uniform >= spec.caption_dropout
    text = np.where(kept, index.text_length[samples], index.empty_text_length)
    numbers = (first + np.arange(spec.window)) & 0xFFFFFFFF
    columns = (numbers, samples, tokens, text, frames, kept)
    draws = [Draw(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    rows = fewest_rows(draws, spec)
    order = _permutation(seed, "rows", window, len(rows))
    return [tuple(rows[place]) for place in order]


def fill(rows: Iterable[Sequence[Draw]], spec: PackSpec) -> float:
    """Share of token places that hold a token."""
    tokens = [sum(draw.tokens for draw in row) for row in rows]
    return sum(tokens) / (len(tokens) * spec.row_length)


def check_index(
    index: PlanIndex,
    spec: PackSpec,
    samples: Int[np.ndarray, " k"] | slice = slice(None),
) -> None:
    """Raises ValueError when a sample cannot be packed into a row of `spec`.

    Refused: an index with no sample, latents the patch does not divide, a picture
    (or one latent frame of a clip) over the row, a caption over the text budget or
    of no token, a clip without a frame rate.
    """
    if len(index) == 0:
        raise ValueError("the index holds no sample: prepare a dataset with at least 1")
    number = np.arange(len(index))[samples] if isinstance(samples, slice) else samples
    t, h, w = index.t[samples], index.h[samples], index.w[samples]

    def size(worst: int) -> str:
        i = number[worst]
        return f"sample {i} ({index.width[i]}x{index.height[i]} pixels)"

    sides = np.stack([t, h, w])
    bad = ((sides < 1) | (sides % np.array(index.patch)[:, None] != 0)).any(axis=0)
    if bad.any():
        worst = int(bad.argmax())
        raise ValueError(
            f"{size(worst)} has latents of {tuple(sides[:, worst].tolist())} (t, h, w),"
            f" which patches of {index.patch} do not divide: prepare the dataset again"
        )
    frame = _frame_tokens(index, samples)
    worst = int(frame.argmax())
    if frame[worst] > spec.row_length:
        what = "a picture" if t[worst] == 1 else "one latent frame"
        raise ValueError(
            f"{size(worst)} has {frame[worst]} tokens in {what}, more than a row of"
            f" {spec.row_length}: set row_length to at least {frame[worst]}"
        )
    text = index.text_length[samples]
    longest = max(int(text.max()), index.empty_text_length)
    if longest > spec.text_length:
        raise ValueError(
            f"the longest caption has {longest} text tokens, more than a row's"
            f" {spec.text_length}: set text_length to at least {longest}"
        )
    if min(int(text.min()), index.empty_text_length) < 1:
        raise ValueError(
            "a caption has no text token: its encoder must give at least 1 for any text"
        )
    still = (t > 1) & ~(index.fps[samples] > 0)
    if still.any():
        worst = int(still.argmax())
        raise ValueError(
            f"{size(worst)} is a clip of {t[worst]} latent frames with no frame rate"
            f" (fps {index.fps[samples][worst]}): prepare the dataset again"
        )


def _frame_tokens(
    index: PlanIndex, samples: Int[np.ndarray, " k"] | slice
) -> Int[np.ndarray, " k"]:
    """Tokens of one step of the patch grid along time."""
    _, ph, pw = index.patch
    h, w = index.h[samples].astype(np.int64), index.w[samples].astype(np.int64)
    return (h // ph) * (w // pw)


def _kept(
    index: PlanIndex, spec: PackSpec, samples: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Latent frames that fit a row, and their tokens.

    Cutting a clip after any latent is exact: the VAE is causal, so the first latents
    of a clip are the latents of its first frames.
    """
    pt = index.patch[0]
    frame = _frame_tokens(index, samples)
    steps = np.minimum(index.t[samples] // pt, spec.row_length // frame)
    return steps * pt, steps * frame


def fewest_rows(draws: Sequence[Draw], spec: PackSpec) -> list[list[Draw]]:
    """Best-fit-decreasing, or best-fit in stream order where that needs fewer rows.

    Decreasing order packs tokens best, but puts the smallest clips together at the
    end: where segments or text are the scarce budget those rows stay half empty
    (rows of 3072 tokens and 16 segments, ten samples: fill 0.86 against 0.97).
    """
    # Sorting is stable: draws of equal length keep the order of the stream.
    decreasing = sorted(draws, key=lambda draw: -draw.tokens)
    return min((_best_fit(order, spec) for order in (decreasing, draws)), key=len)


def _best_fit(draws: Sequence[Draw], spec: PackSpec) -> list[list[Draw]]:
    """Each draw in turn goes to the row it leaves fullest; ties go to the oldest."""
    rows: list[list[Draw]] = []
    text_left: list[int] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted; closed rows leave
    for draw in draws:
        place = bisect_left(room, (draw.tokens, -1))
        while place < len(room) and text_left[room[place][1]] < draw.text_tokens:
            place += 1
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = spec.row_length, len(rows)
            rows.append([])
            text_left.append(spec.text_length)
        rows[row].append(draw)
        text_left[row] -= draw.text_tokens
        left -= draw.tokens
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
        order = _permutation(seed, "epoch", epoch, samples)[rank : rank + length]
        drawn.append(order)
        length -= len(order)
        epoch, rank = epoch + 1, 0
    return np.concatenate(drawn)


@lru_cache(maxsize=8)
def _key(seed: int, purpose: str) -> Shaped[np.ndarray, "2"]:
    spawn_key = (int.from_bytes(purpose.encode(), "big"),)
    return np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(2, "u8")


# One epoch of a large dataset serves thousands of windows; more entries than the
# epoch and the shuffle of rows at hand would only hold memory.
@lru_cache(maxsize=2)
def _permutation(
    seed: int, purpose: str, number: int, length: int
) -> Int[np.ndarray, " length"]:
    """The permutation keyed by (seed, purpose, number)."""
    # The number is the counter's third word, out of reach of the first.
    bits = np.random.Philox(key=_key(seed, purpose), counter=[0, 0, number, 0])
    return np.argsort(bits.random_raw(length), kind="stable")


def _uniform(
    seed: int, purpose: str, first: int, length: int
) -> Float[np.ndarray, " length"]:
    """One number in [0, 1) a draw, keyed by (seed, purpose, draw) alone."""
    # The counter goes up by one every four words: one draw, one count.
    bits = np.random.Philox(key=_key(seed, purpose), counter=[first, 0, 0, 0])
    return (bits.random_raw(4 * length)[::4] >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """One clip as it goes into a row."""

    tokens: Float[np.ndarray, "n p"]
    positions: Float[np.ndarray, "n 3"]
    text: Float[np.ndarray, "m e"]
    draw: int
    shift: float
    known: Bool[np.ndarray, " n"] | None = None  # None: all are generated


def pack(rows: Sequence[Sequence[Segment]], spec: PackSpec) -> PackedBatch:
    """Lays segments end to end, B rows of them, padding at the end; NumPy arrays.

    Unused places hold 0 (False), unused shifts 1. Raises ValueError when a row breaks
    a budget, when a segment is empty, or when there is none at all.
    """
    segments = [segment for row in rows for segment in row]
    if not segments:
        raise ValueError("nothing to pack: expected at least one segment")
    length, features = spec.row_length, segments[0].tokens.shape[1]
    text_length, width = spec.text_length, segments[0].text.shape[1]
    b, s = len(rows), spec.max_segments
    batch = PackedBatch(
        latents=np.zeros((b, length, features), np.float32),
        segment_ids=np.zeros((b, length), np.int32),
        token_index=np.zeros((b, length), np.int32),
        positions=np.zeros((b, length, 3), np.float32),
        known=np.zeros((b, length), np.bool_),
        text=np.zeros((b, text_length, width), np.float32),
        text_segment_ids=np.zeros((b, text_length), np.int32),
        draw=np.zeros((b, s), np.uint32),
        shift=np.ones((b, s), np.float32),
    )
    for place, row in enumerate(rows):
        _check_row(place, row, spec)
        _lay_row(PackedBatch(*(array[place] for array in batch)), row)
    return batch


def _check_row(place: int, row: Sequence[Segment], spec: PackSpec) -> None:
    sizes = [(len(segment.tokens), len(segment.text)) for segment in row]
    if any(tokens < 1 or text < 1 for tokens, text in sizes):
        raise ValueError(
            f"row {place} has a segment without tokens or without text: expected at"
            f" least one of each, got (tokens, text) {sizes}"
        )
    for what, used, budget in (
        ("tokens", sum(tokens for tokens, _ in sizes), spec.row_length),
        ("text tokens", sum(text for _, text in sizes), spec.text_length),
        ("segments", len(row), spec.max_segments),
    ):
        if used > budget:
            raise ValueError(
                f"row {place} has {used} {what}, more than its {budget}: raise the"
                " budget or put fewer clips in the row"
            )


def _lay_row(out: PackedBatch, row: Sequence[Segment]) -> None:
    """Writes the segments into views of one row."""
    start = text_start = 0
    for place, segment in enumerate(row):
        n, m = len(segment.tokens), len(segment.text)
        here = slice(start, start + n)
        text_here = slice(text_start, text_start + m)
        out.latents[here] = segment.tokens
        out.segment_ids[here] = place + 1
        out.token_index[here] = np.arange(n)
        out.positions[here] = segment.positions
        out.known[here] = False if segment.known is None else segment.known
        out.text[text_here] = segment.text
        out.text_segment_ids[text_here] = place + 1
        out.draw[place] = segment.draw
        out.shift[place] = segment.shift
        start, text_start = start + n, text_start + m


def unpack(
    array: Shaped[Array, "b l *rest"], segment_ids: Int[Array, "b l"]
) -> list[list[Shaped[np.ndarray, "n *rest"]]]:
    """For each row, its segments' parts of `array`, in order, without the padding.

    Works for tokens with `segment_ids` and for text with `text_segment_ids`.
    """
    values, ids = np.asarray(array), np.asarray(segment_ids)
    rows = []
    for row, row_ids in zip(values, ids, strict=True):
        ends = np.cumsum(np.bincount(row_ids)[1:])
        rows.append(np.split(row, ends)[:-1])  # the last part is the padding
    return rows

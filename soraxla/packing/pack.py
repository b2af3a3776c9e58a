"""Packing of clips end to end into rows, and unpacking. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from soraxla.core.errors import UserError
from soraxla.core.types import Array, PackedBatch
from soraxla.packing.conditioning import ConditioningMixture


@dataclass(frozen=True, kw_only=True)
class RowConfig:
    """The budgets of a row.

    Attributes:
        row_length: L, tokens per row.
        text_length: M, text tokens per row.
        max_segments: S, most clips per row.
    """

    row_length: int
    text_length: int
    max_segments: int

    def __post_init__(self) -> None:
        for budget in fields(RowConfig):
            value = getattr(self, budget.name)
            if value < 1:
                raise UserError(f"pack.{budget.name} is {value}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PackConfig(RowConfig):
    """The budgets of a row, and the fractions of visits that change a clip.

    Attributes:
        cut_share: fraction of visits that truncate the clip to a random length.
        next_share: fraction of visits that use only a few latent frames.
        caption_dropout: fraction of visits with the empty caption.
        control_dropout: fraction of visits without actions and camera.
    """

    cut_share: float = 0.0
    next_share: float = 0.0
    caption_dropout: float = 0.1
    control_dropout: float = 0.1
    mixture: ConditioningMixture = field(default_factory=ConditioningMixture)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "cut_share",
            "next_share",
            "caption_dropout",
            "control_dropout",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"pack.{name} is {getattr(self, name)}, expected 0 to 1"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """A clip as it goes into a row."""

    tokens: Float[np.ndarray, "n p"]
    positions: Float[np.ndarray, "n 3"]
    text: Float[np.ndarray, "m e"]
    visit: int
    shift: float
    condition_mask: Bool[np.ndarray, " n"] | None = None  # None: all are generated
    controls: Float[np.ndarray, "n a"] | None = None  # None: there are none
    features: Float[np.ndarray, "n f"] | None = None  # None: there are none


def pack(rows: Sequence[Sequence[Segment]], config: PackConfig) -> PackedBatch:
    """Packs segments end to end into B rows of NumPy arrays, with padding at the end.

    Unused places hold 0 (False), unused shifts 1. Raises UserError when a row breaks
    a budget, when a segment is empty, or when there is none at all. Latents, text and
    features are bfloat16 if those of all segments are, else float32.
    """
    segments = [segment for row in rows for segment in row]
    if not segments:
        raise UserError("nothing to pack: expected at least one segment")
    length, features = config.row_length, segments[0].tokens.shape[1]
    text_length, width = config.text_length, segments[0].text.shape[1]
    b, s = len(rows), config.max_segments
    batch = PackedBatch(
        latents=np.zeros((b, length, features), _dtype([s.tokens for s in segments])),
        segment_ids=np.zeros((b, length), np.int32),
        token_index=np.zeros((b, length), np.int32),
        positions=np.zeros((b, length, 3), np.float32),
        condition_mask=np.zeros((b, length), np.bool_),
        controls=_zeros(b, length, [s.controls for s in segments]),
        features=_zeros(b, length, [s.features for s in segments]),
        text=np.zeros((b, text_length, width), _dtype([s.text for s in segments])),
        text_segment_ids=np.zeros((b, text_length), np.int32),
        visit=np.zeros((b, s), np.uint32),
        shift=np.ones((b, s), np.float32),
    )
    for place, row in enumerate(rows):
        _check_row(place, row, config)
        _lay_row(PackedBatch(*(array[place] for array in batch)), row)
    return batch


def _zeros(
    rows: int, length: int, arrays: Sequence[np.ndarray | None]
) -> Shaped[np.ndarray, "b l _"]:
    """Returns room for arrays of tokens that some segments have."""
    found = [x for x in arrays if x is not None]
    if not found:
        return np.zeros((rows, length, 0), np.float32)
    return np.zeros((rows, length, found[0].shape[1]), _dtype(found))


def _dtype(arrays: Sequence[np.ndarray]) -> np.dtype:
    narrow = np.dtype(ml_dtypes.bfloat16)
    return narrow if {x.dtype for x in arrays} == {narrow} else np.dtype(np.float32)


def _check_row(place: int, row: Sequence[Segment], config: PackConfig) -> None:
    sizes = [(len(segment.tokens), len(segment.text)) for segment in row]
    if any(tokens < 1 or text < 1 for tokens, text in sizes):
        raise UserError(
            f"row {place} has a segment without tokens or without text: expected at"
            f" least one of each, got (tokens, text) {sizes}"
        )
    for what, used, budget in (
        ("tokens", sum(tokens for tokens, _ in sizes), config.row_length),
        ("text tokens", sum(text for _, text in sizes), config.text_length),
        ("segments", len(row), config.max_segments),
    ):
        if used > budget:
            raise UserError(
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
        out.condition_mask[here] = (
            False if segment.condition_mask is None else segment.condition_mask
        )
        if segment.controls is not None:
            out.controls[here] = segment.controls
        if segment.features is not None:
            out.features[here] = segment.features
        out.text[text_here] = segment.text
        out.text_segment_ids[text_here] = place + 1
        out.visit[place] = segment.visit
        out.shift[place] = segment.shift
        start, text_start = start + n, text_start + m


def unpack(
    array: Shaped[Array, "b l *rest"], segment_ids: Int[Array, "b l"]
) -> list[list[Shaped[np.ndarray, "n *rest"]]]:
    """Returns for each row its segments' parts of `array`, in order, without padding.

    Works for tokens with `segment_ids` and for text with `text_segment_ids`.
    """
    values, ids = np.asarray(array), np.asarray(segment_ids)
    rows = []
    for row, row_ids in zip(values, ids, strict=True):
        ends = np.cumsum(np.bincount(row_ids)[1:])
        rows.append(np.split(row, ends)[:-1])  # the last part is the padding
    return rows

"""The sample types that all sources share."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

TRAIN, EVAL = "train", "eval"
CAPTION_MIX = 0.05  # share of captioned clips that keep their original caption


class Extent(NamedTuple):
    """The size of a sample before it is decoded: pixels, frames, bytes of its caption.

    Sizes choose the boundaries of shards, so an estimate will do.
    """

    height: int
    width: int
    frames: int
    text: int


class Media(NamedTuple):
    """An opened sample, whose frames, uint8 (H, W, 3), are streamed."""

    caption: str
    fps: float  # 0.0 for a picture
    frames: Iterator[np.ndarray]
    actions: np.ndarray | None = None  # (T, a), between the previous frame and this one
    camera: np.ndarray | None = None  # (T, 4, 4), camera to world
    size: tuple[int, int] | None = None  # (H, W), if known before a frame is decoded
    split: str = TRAIN  # EVAL keeps the sample from training


@runtime_checkable
class Sample(Protocol):
    """A captioned clip or picture; `uid` is unique in its source."""

    @property
    def uid(self) -> str: ...

    def open(self) -> Media:
        """Opens the sample; raises UserError or OSError, also during streaming."""
        ...


@runtime_checkable
class SizedSample(Sample, Protocol):
    """A sample that knows its size before it is decoded."""

    def size(self) -> Extent:
        """Returns the size; raises UserError or OSError."""
        ...

"""The sample types that all sources share."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class Media(NamedTuple):
    """An opened sample, whose frames, uint8 (H, W, 3), are streamed."""

    caption: str
    fps: float  # 0.0 for a picture
    frames: Iterator[np.ndarray]
    actions: np.ndarray | None = None  # (T, a), between the previous frame and this one
    camera: np.ndarray | None = None  # (T, 4, 4), camera to world
    size: tuple[int, int] | None = None  # (H, W), if known before a frame is decoded


@runtime_checkable
class Sample(Protocol):
    """A captioned clip or picture; `uid` is unique in its source."""

    @property
    def uid(self) -> str: ...

    def open(self) -> Media:
        """Opens the sample; raises UserError or OSError, also during streaming."""
        ...

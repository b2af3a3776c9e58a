"""What a sample of any source is."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class Media(NamedTuple):
    """A sample opened: its frames, uint8 (H, W, 3), are streamed."""

    caption: str
    fps: float  # 0.0 for a picture
    frames: Iterator[np.ndarray]
    actions: np.ndarray | None = None  # (T, a), done between a frame and the one before
    camera: np.ndarray | None = None  # (T, 4, 4), camera to world


@runtime_checkable
class Sample(Protocol):
    """A captioned clip or picture; `uid` is unique in its source."""

    @property
    def uid(self) -> str: ...

    def open(self) -> Media:
        """Raises UserError or OSError, at once or while it streams, if unreadable."""
        ...

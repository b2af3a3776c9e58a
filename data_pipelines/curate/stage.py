"""The types that all stages of curation share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Limit(NamedTuple):
    """The range of scores that a clip is kept at; None is no bound."""

    min: float | None = None
    max: float | None = None

    def refuses(self, score: float) -> str:
        """Returns why a score is outside, or "" for one that is inside."""
        if self.min is not None and score < self.min:
            return f"{score:.4g} is below {self.min:.4g}"
        if self.max is not None and score > self.max:
            return f"{score:.4g} is above {self.max:.4g}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage's name, its scores with a description each, and default limits."""

    name: str
    summary: str
    scores: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    parameters: Any = None  # a frozen dataclass of defaults


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One of the few frames per second that scores are measured on.

    Attributes:
        index: the frame on the reader's grid.
        picture: (h, w, 3) uint8, at most `WORKING_SIDE` pixels on its shorter side.
        rows, columns: a bright level of each row and column of the whole frame.
        blockiness: see `picture.blockiness`; it needs the frame's true size.
    """

    index: int
    picture: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    blockiness: float


WORKING_SIDE = 360  # pixels; scores are compared between films at one size
SAMPLE_RATE = 2.0  # frames per second
Scores = dict[str, float | None]  # None: it could not be measured

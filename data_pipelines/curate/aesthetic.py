"""The stage `aesthetic`: a score by a callable, such as a linear head on CLIP features.

This package imports no model: the callable is passed in. Without it, the score is
absent.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.curate.stage import Limit, Scores, Stage

Score = Callable[[np.ndarray], np.ndarray]  # RGB uint8 (n, h, w, 3) to (n,)

STAGE = Stage(
    name="aesthetic",
    summary="scores looks by a linear head on CLIP features, if weights are given",
    scores={"score": "mean of the head's output"},
    limits={"score": Limit()},
)
_MOST = 8  # pictures per clip


def scores(pictures: Sequence[np.ndarray], score: Score | None) -> Scores:
    """Returns the mean score of at most eight pictures; absent without a callable."""
    if score is None or not pictures:
        return {"score": None}
    return {"score": float(np.mean(score(np.stack(spread(pictures, _MOST)))))}


def spread(pictures: Sequence[np.ndarray], most: int) -> list[np.ndarray]:
    """Returns at most `most` pictures, evenly spaced."""
    places = np.linspace(0, len(pictures) - 1, min(most, len(pictures)))
    return [pictures[round(place)] for place in places]


def linear_head(
    features: Callable[[np.ndarray], np.ndarray], weight: np.ndarray, bias: float
) -> Score:
    """Returns the score weight · f / |f| + bias of features f (arXiv 2210.08402)."""

    def score(pictures: np.ndarray) -> np.ndarray:
        f = np.asarray(features(pictures), np.float32)
        f = f / np.maximum(np.linalg.norm(f, axis=-1, keepdims=True), 1e-6)
        return f @ np.reshape(weight, -1) + bias

    return score

"""The stage `people`: the number of people or faces, by a callable.

This package has no detector: the callable is passed in. Without it, the score is
absent.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.curate.aesthetic import spread
from data_pipelines.curate.stage import Limit, Scores, Stage

Count = Callable[[np.ndarray], np.ndarray]  # RGB uint8 (n, h, w, 3) to (n,)

STAGE = Stage(
    name="people",
    summary="counts people or faces, if a detector is passed in",
    scores={"count": "largest number in a sample"},
    limits={"count": Limit()},
)
_MOST = 8  # pictures per clip


def scores(pictures: Sequence[np.ndarray], count: Count | None) -> Scores:
    """Returns the largest count in at most eight pictures; None without a detector."""
    if count is None or not pictures:
        return {"count": None}
    return {"count": float(np.max(count(np.stack(spread(pictures, _MOST)))))}

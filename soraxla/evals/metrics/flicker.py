"""Temporal flicker: changes from frame to frame that the reference does not have."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, SetMetric


@dataclass(frozen=True, kw_only=True)
class Flicker(SetMetric):
    """The mean |Δ(clip − reference)| between neighbouring frames, out of 255.

    A clip of one frame has none.
    """

    needs = "pairs"
    better = "lower"

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert clip.reference is not None
        error = np.subtract(clip.frames, clip.reference, dtype=np.float64)
        steps = np.diff(error, axis=0)
        return np.array(np.abs(steps).mean() if len(steps) else 0.0)

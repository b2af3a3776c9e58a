"""The mean change of a pixel from frame to frame."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, SetMetric


@dataclass(frozen=True, kw_only=True)
class FrameChange(SetMetric):
    """The mean absolute difference of neighbouring frames, out of 255.

    It is VBench's temporal flickering before its scaling (arXiv 2311.17982). Neither
    direction is better: 0 is a still picture. A clip of one frame has 0.
    """

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        steps = np.diff(clip.frames.astype(np.int16), axis=0)
        return np.array(np.abs(steps).mean() if len(steps) else 0.0)

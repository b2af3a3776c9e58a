"""The amount of motion in a clip, by optical flow."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, SetMetric
from soraxla.evals.optical_flow import RATE, OpticalFlow, sampled


@dataclass(frozen=True, kw_only=True)
class Motion(SetMetric):
    """The mean speed of all pixels, in shorter sides of the frame per second.

    Attributes:
        flow: None if only rows are left.
    """

    flow: OpticalFlow | None = field(repr=False)

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert self.flow is not None
        speeds = self.flow.speeds(clip)[:, 0]
        if not len(speeds):
            return np.array(0.0)
        fps = clip.fps or RATE
        rate = fps / max(1, round(fps / RATE))  # of the pairs
        return np.array(speeds.mean() * rate / min(clip.frames.shape[1:3]))


@dataclass(frozen=True, kw_only=True)
class DynamicDegree(SetMetric):
    """The share of clips that move, as VBench defines it (arXiv 2311.17982).

    A clip moves if in a quarter of its frames, about eight a second, the fastest
    twentieth of the pixels moves by more than 6 pixels, for 256 pixels of the shorter
    side.

    Attributes:
        flow: None if only rows are left.
    """

    better = "higher"

    flow: OpticalFlow | None = field(repr=False)

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert self.flow is not None
        fast = self.flow.speeds(clip)[:, 1] > 6.0 * min(clip.frames.shape[1:3]) / 256
        enough = fast.sum() >= round(4 * len(sampled(clip)) / 16)
        return np.array(float(len(fast) > 0 and enough))

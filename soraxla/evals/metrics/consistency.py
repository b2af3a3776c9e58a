"""The likeness of a clip's frames to its first frame and to their neighbours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, Extractor, SetMetric


@dataclass(frozen=True, kw_only=True)
class Consistency(SetMetric):
    """VBench's consistency (arXiv 2311.17982), 0…1.

    The cosines of each frame's features to those of the first frame and of the frame
    before, negative ones as 0, averaged. VBench calls it the consistency of the subject
    with features of DINO, of the background with those of CLIP. A clip of one frame has
    1, and so has a still picture: read it beside the motion.

    Attributes:
        extractor: None if only rows are left.
    """

    better = "higher"

    extractor: Extractor | None

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert self.extractor is not None
        x = clip.features(self.extractor, len(clip.frames))
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        if len(x) < 2:
            return np.array(1.0)
        first, before = x[1:] @ x[0], (x[1:] * x[:-1]).sum(axis=1)
        return np.array(np.maximum([first, before], 0).mean())

"""CLIP score (arXiv 2104.08718) of clips and their prompts."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from soraxla.evals.clip_score import CLIPModel, frame_scores
from soraxla.evals.metrics.metric import Clip, SetMetric


@dataclass(frozen=True, kw_only=True)
class CLIPScore(SetMetric):
    """The score, 0…100, of all frames: their mean, or the best frame's.

    Attributes:
        model: None if only rows are left.
    """

    needs = "prompts"
    better = "higher"

    model: CLIPModel | None = field(repr=False)
    of: Literal["mean", "best"] = "mean"

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert clip.prompt is not None and self.model is not None
        features = clip.features(self.model.frames, len(clip.frames))
        scores = frame_scores(self.model, features, clip.prompt)
        return np.array(scores.mean() if self.of == "mean" else scores.max())

"""The share of clips whose own prompt fits them best among a hundred."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from soraxla.evals.clip_score import CLIPModel, text_direction, video_direction
from soraxla.evals.metrics.metric import Clip, SetMetric

PROMPTS = 100


@dataclass(frozen=True, kw_only=True)
class CLIPRank(SetMetric):
    """R-precision (arXiv 1711.10485) with CLIP's embeddings.

    A clip counts if the cosine of its mean frame embedding to its prompt exceeds that
    to each of the 99 prompts after it, in the order of clip names, around the end. With
    fewer clips, all other prompts compete. Equal prompts do not compete.

    Attributes:
        model: None if only rows are left.
    """

    needs = "prompts"
    better = "higher"

    model: CLIPModel | None = field(repr=False)

    def row(self, clip: Clip) -> Float[np.ndarray, "2 p"]:
        assert clip.prompt is not None and self.model is not None
        video = video_direction(clip.features(self.model.frames, len(clip.frames)))
        return np.stack([video, text_direction(self.model, clip.prompt)])

    def prepared(self, rows: Float[np.ndarray, "n 2 p"]) -> Float[np.ndarray, " n"]:
        videos, texts = rows[:, 0], rows[:, 1]
        n, found = len(rows), []
        for i in range(n):
            rivals = texts[(i + np.arange(min(PROMPTS, n))) % n]
            other = (rivals != texts[i]).any(axis=1)
            found.append((rivals[other] @ videos[i] < texts[i] @ videos[i]).all())
        return np.array(found, np.float64)

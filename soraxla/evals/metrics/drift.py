"""The change of a clip's appearance from its beginning to its end."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, Extractor, SetMetric


@dataclass(frozen=True, kw_only=True)
class Drift(SetMetric):
    """The cosine distance of the last window of frames from the first.

    A clip is cut into windows of equal length; a window's features are the mean of its
    frames'. The rows hold the distances of all windows from the first, so that the
    drift of an extension is a curve.

    Attributes:
        extractor: None if only rows are left.
        windows: their number.
    """

    better = "lower"

    extractor: Extractor | None
    windows: int = 8

    def row(self, clip: Clip) -> Float[np.ndarray, " w"]:
        assert self.extractor is not None
        frames = clip.features(self.extractor, max(len(clip.frames), self.windows))
        parts = [part.mean(axis=0) for part in np.array_split(frames, self.windows)]
        x = np.stack(parts)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return 1 - x @ x[0]

    def statistic(
        self,
        rows: Float[np.ndarray, "n w"],
        reference: Float[np.ndarray, "m w"] | None,
    ) -> float:
        del reference
        return float(rows[:, -1].mean())

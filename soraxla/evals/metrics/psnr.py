"""Peak signal-to-noise ratio of clips and their references."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, SetMetric

_CAP = 100.0  # of equal clips, whose ratio is infinite


@dataclass(frozen=True, kw_only=True)
class PSNR(SetMetric):
    """The mean over clips of 10·log10(255² / mean squared difference), in dB."""

    needs = "pairs"
    better = "higher"

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert clip.reference is not None
        square = np.square(np.subtract(clip.frames, clip.reference, dtype=np.float64))
        error = max(float(square.mean()), 255.0**2 * 10 ** (-_CAP / 10))
        return np.array(10 * np.log10(255.0**2 / error))

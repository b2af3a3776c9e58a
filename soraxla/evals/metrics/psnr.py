"""Peak signal-to-noise ratio of clips and their references."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, SetMetric

_CAP = 100.0  # of equal clips, whose ratio is infinite
_GROUP = 4  # frames of a latent frame, but the first


@dataclass(frozen=True, kw_only=True)
class PSNR(SetMetric):
    """The mean over clips of 10·log10(255² / mean squared difference), in dB.

    Attributes:
        places: the frames that count, by their place in a latent frame of a VAE that
            turns the first frame into one and every four after it into another: 0 for
            the first, 1 to 4 for the others. None counts all. A clip without such
            frames has NaN and does not count.
    """

    needs = "pairs"
    better = "higher"

    places: tuple[int, ...] | None = None

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert clip.reference is not None
        square = np.square(np.subtract(clip.frames, clip.reference, dtype=np.float64))
        if self.places is not None:
            numbers = np.arange(len(square))
            square = square[
                np.isin(np.where(numbers, (numbers - 1) % _GROUP + 1, 0), self.places)
            ]
        if not len(square):
            return np.array(np.nan)
        error = max(float(square.mean()), 255.0**2 * 10 ** (-_CAP / 10))
        return np.array(10 * np.log10(255.0**2 / error))

    def statistic(
        self, rows: Float[np.ndarray, " n"], reference: Float[np.ndarray, " m"] | None
    ) -> float:
        del reference
        counted = rows[~np.isnan(rows)]
        return float(counted.mean()) if len(counted) else float("nan")

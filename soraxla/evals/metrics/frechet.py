"""The Fréchet distance between Gaussians fitted to the features of two sets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, Extractor, SetMetric

MAIN = 256  # directions of features, at most, in resamples


@dataclass(frozen=True, kw_only=True)
class Frechet(SetMetric):
    """|μ − μ'|² + tr(Σ + Σ' − 2(Σ·Σ')^½), as FID (arXiv 1706.08500) and FVD.

    Attributes:
        extractor: None if only rows are left.
        frames: evenly spaced frames of a clip; each is a sample.
    """

    needs = "reference"
    better = "lower"

    extractor: Extractor | None
    frames: int = 16

    def row(self, clip: Clip) -> Float[np.ndarray, "f d"]:
        assert self.extractor is not None
        return clip.features(self.extractor, self.frames)

    def condensed(
        self, sets: Sequence[Float[np.ndarray, "_ f d"]]
    ) -> Sequence[Float[np.ndarray, "_ f k"]]:
        """Returns the features in their 256 main directions, if they have more.

        Whole features of Inception would take hours: a resample costs d³.
        """
        d = sets[0].shape[-1]
        if d <= MAIN:
            return sets
        pooled = np.concatenate([each.reshape(-1, d) for each in sets])
        _, axes = np.linalg.eigh(moments(pooled)[1])
        return [each @ axes[:, -MAIN:] for each in sets]

    def statistic(
        self,
        rows: Float[np.ndarray, "n f d"],
        reference: Float[np.ndarray, "m f d"] | None,
    ) -> float:
        assert reference is not None
        one, other = (x.reshape(-1, x.shape[-1]) for x in (rows, reference))
        return frechet(*moments(one), *moments(other))


def moments(
    x: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Returns the mean and the sample covariance of features."""
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / max(1, len(x) - 1)


def frechet(
    mean: Float[np.ndarray, " d"],
    cov: Float[np.ndarray, "d d"],
    other_mean: Float[np.ndarray, " d"],
    other_cov: Float[np.ndarray, "d d"],
) -> float:
    """Returns the squared Fréchet distance of two Gaussians.

    The trace of (Σ·Σ')^½ is the sum of the square roots of the eigenvalues of
    Σ^½·Σ'·Σ^½, which is symmetric; so no root of a matrix with rounding errors becomes
    complex.
    """
    levels, axes = np.linalg.eigh(cov)
    root = (axes * np.sqrt(np.maximum(levels, 0.0))) @ axes.T
    between = np.linalg.eigvalsh(root @ other_cov @ root)
    cross = np.sqrt(np.maximum(between, 0.0)).sum()
    square = np.square(mean - other_mean).sum()
    return float(square + np.trace(cov) + np.trace(other_cov) - 2.0 * cross)

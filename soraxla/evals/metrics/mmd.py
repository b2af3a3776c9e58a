"""The maximum mean discrepancy between the features of two sets."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from soraxla.evals.metrics.metric import Clip, Extractor, SetMetric

Kernel = Literal["polynomial", "gaussian", "quadratic"]


@dataclass(frozen=True, kw_only=True)
class MMD(SetMetric):
    """The squared discrepancy of clips' mean features, unbiased but for JEDi's.

    Attributes:
        extractor: a clip's sample is the mean of its features; None if only rows are
            left.
        frames: evenly spaced frames of a clip.
        kernel: "polynomial" is KID's (x·y/d + 1)³ (arXiv 1801.01401); "gaussian" is
            CMMD's exp(−|x − y|²/200) times 1,000 (arXiv 2401.09603), on features of
            length 1; "quadratic" is JEDi's 100 (x·y/d)², whose means have the pairs of
            a clip with itself too (arXiv 2410.05203).
    """

    needs = "reference"
    better = "lower"

    extractor: Extractor | None
    frames: int = 16
    kernel: Kernel = "polynomial"

    def row(self, clip: Clip) -> Float[np.ndarray, " d"]:
        assert self.extractor is not None
        return clip.features(self.extractor, self.frames).mean(axis=0)

    def statistic(
        self,
        rows: Float[np.ndarray, "n d"],
        reference: Float[np.ndarray, "m d"] | None,
    ) -> float:
        assert reference is not None
        return mmd(rows, reference, self.kernel)


def mmd(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    kernel: Kernel,
) -> float:
    """Returns the estimate; an unbiased one is negative at times. NaN below 2 clips."""
    if min(len(x), len(y)) < 2:
        return float("nan")
    of = _KERNELS[kernel]

    def within(z: np.ndarray) -> float:
        pairs = of(z, z)
        if kernel == "quadratic":
            return pairs.mean()
        return (pairs.sum() - np.trace(pairs)) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2.0 * of(x, y).mean())


def _polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    square = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2.0 * x @ y.T
    return 1000.0 * np.exp(-square / 200.0)


def _quadratic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 100.0 * (x @ y.T / x.shape[1]) ** 2


_KERNELS = {
    "polynomial": _polynomial,
    "gaussian": _gaussian,
    "quadratic": _quadratic,
}

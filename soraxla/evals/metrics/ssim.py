"""Structural similarity (Wang et al., 2004) of clips and their references."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter

from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import Clip, SetMetric

_WINDOW = 7  # pixels
_K1, _K2, _RANGE = 0.01, 0.03, 255.0


@dataclass(frozen=True, kw_only=True)
class SSIM(SetMetric):
    """The mean over frames and channels, as scikit-image's `structural_similarity`.

    Windows are uniform, of 7×7 pixels, with sample covariances; those that leave the
    frame do not count.
    """

    needs = "pairs"
    better = "higher"

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert clip.reference is not None
        pairs = zip(clip.frames, clip.reference, strict=True)
        return np.array(np.mean([frame_ssim(*pair) for pair in pairs]))


def frame_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the similarity of two frames (h, w, 3) uint8; 1 if they are equal.

    Raises:
        UserError: a side is shorter than a window.
    """
    if min(one.shape[:2]) < _WINDOW:
        height, width = one.shape[:2]
        raise UserError(
            f"frames of {width}x{height} pixels, expected at least {_WINDOW}x{_WINDOW} "
            "for SSIM; leave the metric out"
        )
    x, y = one.astype(np.float64), other.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        size: Any = (_WINDOW, _WINDOW, 1)
        return uniform_filter(values, size=size)

    n = _WINDOW**2
    unbiased = n / (n - 1)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = (
        unbiased * (mean(product) - means)
        for product, means in ((x * x, mx * mx), (y * y, my * my), (x * y, mx * my))
    )
    c1, c2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    top = (2 * mx * my + c1) * (2 * vxy + c2)
    similarity = top / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    edge = _WINDOW // 2
    return float(similarity[edge:-edge, edge:-edge].mean())

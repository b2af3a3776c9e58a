"""Connected patches of a mask."""

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage


def areas(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, " k"]:
    """Returns the pixels of each patch."""
    return np.bincount(_labels(mask).ravel())[1:]


def largest(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the patch with the most pixels."""
    labels = _labels(mask)
    sizes = np.bincount(labels.ravel())[1:]
    return labels == 1 + np.argmax(sizes) if len(sizes) > 1 else mask


def _labels(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels

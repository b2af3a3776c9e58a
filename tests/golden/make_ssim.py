"""Makes ssim.npz with scikit-image: python tests/golden/make_ssim.py"""

from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

rng = np.random.default_rng(0)
one = rng.integers(0, 256, (3, 19, 23, 3), np.uint8)
noise = rng.normal(0, 12, one.shape) * np.array([0, 1, 4]).reshape(3, 1, 1, 1)
other = np.clip(one + noise, 0, 255).astype(np.uint8)
ssim = [
    structural_similarity(a, b, channel_axis=-1, data_range=255)
    for a, b in zip(one, other, strict=True)
]
path = Path(__file__).with_name("ssim.npz")
np.savez_compressed(path, one=one, other=other, ssim=ssim)

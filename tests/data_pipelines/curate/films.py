"""Synthetic shots for the tests of curation: textures that move."""

import cv2
import numpy as np

from tests.media.clips import encode

SIZE = 64, 96


def shot(seed, frames, *, size=SIZE, speed=1.5, fine=1.0):
    """A clip of a smooth random texture in two colours, which moves to one side."""
    height, width = size
    rng = np.random.default_rng(seed)
    wide = width + int(abs(speed) * frames) + 2
    noise = rng.normal(size=(height, wide, 3)).astype(np.float32)
    scale = height / 64
    picture = cv2.GaussianBlur(noise, (0, 0), 4 * scale) * 8 * scale
    detail = cv2.GaussianBlur(noise, (0, 0), 0.8) * fine
    base = rng.uniform(90, 165, 3)
    whole = np.clip(base + 45 * picture + 25 * detail, 16, 235).astype(np.float32)
    clip = []
    for t in range(frames):
        x = max(speed, 0) * t
        left = int(x)
        part = (1 - x + left) * whole[:, left : left + width]
        part += (x - left) * whole[:, left + 1 : left + 1 + width]
        clip.append(part.astype(np.uint8))
    return np.stack(clip)


def film(path, *shots, fps=25):
    """Writes shots one after the other as a film; returns its path."""
    frames = np.concatenate(shots)
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, frames, [round(1000 * t / fps) for t in range(len(frames))])
    return path

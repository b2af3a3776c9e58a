"""Condition latents that `prepare` stores beside a clip's latents.

A condition other than the beginning of a clip is encoded from its pixels only, so that
it contains nothing of the other frames; `soraxla.packing.conditioning` decides when
each is used.
"""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from soraxla.packing.conditioning import GREYED, TAILS, greyed

EncodeVideo = Callable[[UInt8[np.ndarray, "f y x 3"]], Float[np.ndarray, "t h w c"]]

_INNER_FRAMES = 2  # encoded separately, like the last one
FRAME, TAIL, HOLE, HOLED = "frame_", "tail_", "hole", "greyed"


def encode_conditions(
    video: UInt8[np.ndarray, "f y x 3"], encode: EncodeVideo, key: str, cell: int
) -> dict[str, np.ndarray]:
    """Encodes a clip's conditions; returns no tensor for a picture.

    `frame_F` (1, h, w, c) of the last frame and two random ones. `tail_5` and `tail_9`
    of that many last frames, if the clip is longer by 4 or more. For one clip in
    twenty, `greyed`, the latents of all frames with a grey hole, and `hole` (h / p, w /
    p), 1 inside it.

    Args:
        key: determines all random choices.
        cell: pixels of a token's side; holes are whole tokens.
    """
    frames = len(video)
    if frames == 1:
        return {}
    digest = hashlib.sha256(key.encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16])))
    inner = 1 + rng.permutation(frames - 2)[:_INNER_FRAMES]
    tensors = {
        f"{FRAME}{frame}": encode(video[frame : frame + 1])
        for frame in sorted([*inner.tolist(), frames - 1])
    }
    for tail in TAILS:
        if frames >= tail + 4:
            tensors[f"{TAIL}{tail}"] = encode(video[-tail:])
    if rng.random() < GREYED:
        hole = random_hole(rng, video.shape[1] // cell, video.shape[2] // cell)
        tensors[HOLE] = hole.astype(np.float32)
        pixels = hole.repeat(cell, axis=0).repeat(cell, axis=1)
        tensors[HOLED] = encode(greyed(video, pixels))
    return tensors


def random_hole(
    rng: np.random.Generator, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Draws a box of a quarter to three quarters of each side, or its complement."""
    if height * width == 1:
        return np.ones((1, 1), bool)
    spans = []
    for side in (height, width):
        size = min(side, max(1, round(side * rng.uniform(0.25, 0.75))))
        start = int(rng.integers(side - size + 1))
        spans.append(slice(start, start + size))
    hole = np.zeros((height, width), bool)
    hole[spans[0], spans[1]] = True
    return ~hole if rng.random() < 0.5 and not hole.all() else hole


def condition_counts(names: Mapping[str, object]) -> dict[str, int]:
    """Returns the index columns of a record's conditions."""
    return {
        "alone": sum(name.startswith(FRAME) for name in names),
        "tails": sum(name.startswith(TAIL) for name in names),
        "spatial": int(HOLED in names),
    }

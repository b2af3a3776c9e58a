"""Condition latents that `prepare` stores beside a clip's latents.

A condition other than the beginning of a clip is encoded from its pixels only, so that
it contains nothing of the other frames; `soraxla.packing.conditioning` decides when
each is used.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from soraxla.packing.conditioning import GREYED, TAILS, greyed

_INNER_FRAMES = 2  # encoded separately, like the last one
FRAME, TAIL, HOLE, HOLED = "frame_", "tail_", "hole", "greyed"


def condition_clips(
    video: UInt8[np.ndarray, "f y x 3"], key: str, cell: int
) -> tuple[
    dict[str, UInt8[np.ndarray, "_ _ _ 3"]], dict[str, Float[np.ndarray, "_ _"]]
]:
    """Returns the clips to encode as a clip's conditions, and the hole of `greyed`.

    The clips are `frame_F`, the last frame and two random ones; `tail_5` and `tail_9`,
    that many last frames, if the clip is longer by 4 or more; and for one clip in
    twenty `greyed`, all frames with a grey hole. `hole` (h / p, w / p) is 1 inside it.
    A picture has none.

    Args:
        key: determines all random choices.
        cell: pixels of a token's side; holes are whole tokens.
    """
    frames = len(video)
    if frames == 1:
        return {}, {}
    digest = hashlib.sha256(key.encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16])))
    inner = 1 + rng.permutation(frames - 2)[:_INNER_FRAMES]
    clips = {
        f"{FRAME}{frame}": video[frame : frame + 1]
        for frame in sorted([*inner.tolist(), frames - 1])
    }
    for tail in TAILS:
        if frames >= tail + 4:
            clips[f"{TAIL}{tail}"] = video[-tail:]
    if rng.random() >= GREYED:
        return clips, {}
    hole = random_hole(rng, video.shape[1] // cell, video.shape[2] // cell)
    pixels = hole.repeat(cell, axis=0).repeat(cell, axis=1)
    clips[HOLED] = greyed(video, pixels)
    return clips, {HOLE: hole.astype(np.float32)}


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

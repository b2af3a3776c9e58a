"""What a clip may be given of itself: encoded alone when prepared, laid in when packed.

A condition that is not the beginning of a clip is encoded from its own pixels alone,
so that it tells nothing of the others; `soraxla.mixture` says when each is used.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from soraxla.packing.bin_packing import Visit
from soraxla.packing.conditioning import GREYED, TAILS, greyed
from soraxla.packing.patchify import Patch, lay_tokens, patchify

Tensors = Mapping[str, np.ndarray]
EncodeVideo = Callable[[UInt8[np.ndarray, "f y x 3"]], Float[np.ndarray, "t h w c"]]

_INNER_FRAMES = 2  # encoded alone beside the last one
_TEMPORAL = 4  # frames a latent
_FRAME, _TAIL, _HOLE, _GREYED = "frame_", "tail_", "hole", "greyed"


def encode_conditions(
    video: UInt8[np.ndarray, "f y x 3"], encode: EncodeVideo, key: str, cell: int
) -> dict[str, np.ndarray]:
    """The tensors kept beside a clip's own latents; none for a picture.

    `frame_F` (1, h, w, c) of the last frame and two random ones, `tail_5` and `tail_9`
    of as many last frames where the clip is longer by 4 or more; of one clip in twenty
    `greyed`, the latents of all frames with a hole in them, and `hole` (h / p, w / p),
    1 where it is.

    Args:
        key: what is random is a function of it.
        cell: pixels of a token's side; holes are whole tokens.
    """
    frames = len(video)
    if frames == 1:
        return {}
    digest = hashlib.sha256(key.encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16])))
    inner = 1 + rng.permutation(frames - 2)[:_INNER_FRAMES]
    made = {
        f"{_FRAME}{frame}": encode(video[frame : frame + 1])
        for frame in sorted([*inner.tolist(), frames - 1])
    }
    for tail in TAILS:
        if frames >= tail + 4:
            made[f"{_TAIL}{tail}"] = encode(video[-tail:])
    if rng.random() < GREYED:
        hole = random_hole(rng, video.shape[1] // cell, video.shape[2] // cell)
        made[_HOLE] = hole.astype(np.float32)
        pixels = hole.repeat(cell, axis=0).repeat(cell, axis=1)
        made[_GREYED] = encode(greyed(video, pixels))
    return made


def random_hole(
    rng: np.random.Generator, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """A box of a quarter to three quarters of each side, or all but such a box."""
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


def stored(names: Mapping[str, object]) -> dict[str, int]:
    """What the index says of a record's conditions."""
    return {
        "alone": sum(name.startswith(_FRAME) for name in names),
        "tails": sum(name.startswith(_TAIL) for name in names),
        "spatial": int(_GREYED in names),
    }


def lay(
    latents: Float[np.ndarray, "t h w c"],
    conditions: Tensors,
    visit: Visit,
    *,
    patch: Patch,
    fps: float,
    rope_fps: float,
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n 3"], Bool[np.ndarray, " n"]]:
    """A draw's tokens, their positions, and which are known.

    What is appended stands behind the clip, at its own time: frame f alone at f/4
    latents, latent i of an end that begins with frame f at (f + 4i)/4. All of it counts
    from the latent that the draw begins with.
    """
    whole_frames = 1 + _TEMPORAL * (len(latents) - 1)
    latents = latents[visit.start : visit.start + visit.latent_frames]
    behind = _appended(conditions, visit, whole_frames)
    parts = [(latents, 0.0)]
    parts += [(z, first / _TEMPORAL - visit.start) for first, z in behind]
    tokens, places = lay_tokens(parts, patch, fps, rope_fps)
    pt, ph, pw = patch
    a_frame = latents.shape[1] * latents.shape[2] // (ph * pw)
    own = len(latents) // pt * a_frame
    condition_mask = np.arange(len(tokens)) >= own
    condition_mask[: visit.prefix // pt * a_frame] = True
    if visit.spatial:
        outside = np.tile(conditions[_HOLE].reshape(-1) == 0, len(latents) // pt)
        around = patchify(conditions[_GREYED][: len(latents)], patch)
        tokens[:own] = np.where(outside[:, None], around, tokens[:own])
        condition_mask[:own] |= outside
    return tokens, places, condition_mask


def _appended(
    conditions: Tensors, visit: Visit, frames: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first frame, latents) of what is laid behind a clip of so many frames."""
    alone = sorted(
        int(name.removeprefix(_FRAME)) for name in conditions if _FRAME in name
    )
    for bit, frame in enumerate(alone):
        if visit.frames >> bit & 1:
            yield frame, conditions[f"{_FRAME}{frame}"]
    if visit.tail:
        tail = TAILS[visit.tail - 1]
        yield frames - tail, conditions[f"{_TAIL}{tail}"]

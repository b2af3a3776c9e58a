"""The stage `duplicates`: clips that show the same as a larger kept one.

Three key frames of a clip have a hash of 256 bits each, in the form of PDQ: the signs
of low frequencies of a 64×64 picture against their median. Two clips are duplicates if
every pair of their key frames differs in at most `MOST` bits. Such hashes agree in at
least one of 16 bands of 16 bits, so only clips that share a band are compared.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.fft import dctn

from data_pipelines.curate.shrink import at_most
from data_pipelines.curate.stage import Limit, Scores, Stage

BITS, BANDS = 256, 16
MOST = BANDS - 1  # bits
STAGE = Stage(
    name="duplicates",
    summary="finds clips that repeat a larger one, within and across films",
    scores={"distance": f"bits to the nearest larger kept clip; absent above {MOST}"},
    limits={"distance": Limit(min=MOST + 1.0)},
)
_PLACES = (1 / 6, 1 / 2, 5 / 6)  # of the key frames in a clip
_KEY_SIDE = 128  # pixels of a key frame's longer side; its hash needs no more
_LEAST = 4.0  # standard deviation of luma; a flatter picture has no hash


class Hashed(NamedTuple):
    """A clip's place in the table, its size and the hash of its key frames."""

    key: str
    size: tuple[int, int]  # pixels of a frame, frames: the larger is kept
    hash: bytes


def key_frames(frames: int) -> list[int]:
    """Returns the key frames of a clip of so many frames, counted from its start.

    They are places in the clip, not in the film, so that a copy has the same ones.
    """
    return [int(place * frames) for place in _PLACES] if frames else []


def key_picture(picture: np.ndarray) -> np.ndarray:
    """Returns an RGB picture as a hash needs it: small and grey."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return at_most(grey, longer=_KEY_SIDE)


def clip_hash(keys: Sequence[np.ndarray]) -> bytes | None:
    """Returns the 96 bytes of three grey key frames; None without if one is flat."""
    parts = [picture_hash(key) for key in keys]
    return b"".join(part for part in parts if part) if parts and all(parts) else None


def picture_hash(grey: np.ndarray) -> bytes | None:
    """Returns the 32 bytes of a grey picture; None if it is flat."""
    if grey.std() < _LEAST:
        return None
    small = cv2.resize(grey.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    # Without the constant's row and column, as in PDQ.
    low = np.asarray(dctn(small.astype(np.float64), norm="ortho"))[1:17, 1:17]
    return np.packbits(low > np.median(low)).tobytes()


def bands(clip: Hashed) -> Iterator[tuple[str, Hashed]]:
    """Yields the clip under each band of its middle key frame."""
    middle, width = clip.hash[32:64], BITS // BANDS // 8
    for band in range(BANDS):
        part = middle[band * width : (band + 1) * width]
        yield f"{band}:{part.hex()}", clip


def distance(a: bytes, b: bytes) -> int:
    """Returns the largest number of different bits of a pair of key frames."""
    different = np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)
    return int(np.bitwise_count(different).reshape(-1, BITS // 8).sum(1).max())


def pairs(clips: Iterable[Hashed]) -> set[tuple[str, str, int]]:
    """Returns (smaller key, larger key, bits) of the near clips of one band."""
    order = sorted(clips, key=rank)
    if len(order) < 2:
        return set()
    hashes = np.stack([np.frombuffer(clip.hash, np.uint8) for clip in order])
    found = set()
    for i in range(1, len(order)):
        bits = np.bitwise_count(hashes[:i] ^ hashes[i])
        most = bits.reshape(i, -1, BITS // 8).sum(2).max(1)
        for j in np.flatnonzero(most <= MOST):
            found.add((order[i].key, order[j].key, int(most[j])))
    return found


def rank(clip: Hashed) -> tuple[int, int, str]:
    """Returns the order in which clips are kept, the largest first."""
    return -clip.size[0], -clip.size[1], clip.key


def all_pairs(clips: Sequence[Hashed]) -> set[tuple[str, str, int]]:
    """Returns the near pairs of all clips, band by band."""
    groups: dict[str, list[Hashed]] = defaultdict(list)
    for clip in clips:
        for band, one in bands(clip):
            groups[band].append(one)
    found: set[tuple[str, str, int]] = set()
    for group in groups.values():
        found |= pairs(group)
    return found


def scores(
    clips: Sequence[Hashed], near: Iterable[tuple[str, str, int]], limit: Limit
) -> Mapping[str, Scores]:
    """Returns the scores of the clips, which passed all other stages, by their keys.

    A clip that the limit refuses is no longer compared to smaller ones, so that of a
    chain of near copies no clip is dropped for a dropped one.
    """
    larger: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for small, large, bits in near:
        larger[small].append((large, bits))
    kept: set[str] = set()
    made: dict[str, Scores] = {}
    for clip in sorted(clips, key=rank):
        bits = [bits for key, bits in larger[clip.key] if key in kept]
        made[clip.key] = {"distance": float(min(bits)) if bits else None}
        if not bits or not limit.refuses(float(min(bits))):
            kept.add(clip.key)
    return made

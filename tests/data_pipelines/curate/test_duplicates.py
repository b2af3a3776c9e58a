"""Hashes of key frames, their bands, and the copy that is kept."""

import cv2
import numpy as np

from data_pipelines.curate import duplicates
from data_pipelines.curate.stage import Limit
from tests.data_pipelines.curate.films import shot

CLIP, OTHER = shot(0, 6, size=(180, 320)), shot(1, 6, size=(180, 320))


def hash_of(clip):
    keys = [clip[k] for k in duplicates.key_frames(len(clip))]
    found = duplicates.clip_hash([duplicates.key_picture(key) for key in keys])
    assert found is not None
    return found


def test_a_smaller_and_darker_copy_is_near_and_another_clip_is_not():
    small = [cv2.resize(f, (160, 90), interpolation=cv2.INTER_AREA) for f in CLIP]
    near = duplicates.distance(hash_of(CLIP), hash_of([f // 4 * 3 for f in small]))
    assert near <= duplicates.MOST
    assert duplicates.distance(hash_of(CLIP), hash_of(OTHER)) > 60
    assert duplicates.clip_hash([np.full((9, 9), 7, np.uint8)] * 3) is None


def test_all_near_hashes_share_a_band_and_are_found():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, 96, np.uint8)
    clips = [duplicates.Hashed("first", (9, 9), first.tobytes())]
    for number in range(20):
        bits = np.unpackbits(first).reshape(3, 256)
        places = rng.choice(256, duplicates.MOST + (number >= 10), replace=False)
        bits[:, places] ^= 1
        clips.append(
            duplicates.Hashed(f"{number:02}", (1, 1), np.packbits(bits).tobytes())
        )
    found = {a for a, b, _ in duplicates.all_pairs(clips) if b == "first"}
    assert found == {f"{number:02}" for number in range(10)}


def test_the_largest_of_a_chain_is_kept_and_what_is_not_near_it():
    def clip(key, pixels):
        return duplicates.Hashed(key, (pixels, 10), b"")

    clips = [clip("small", 1), clip("middle", 2), clip("large", 3)]
    near = [("small", "middle", 3), ("middle", "large", 3)]
    scores = duplicates.scores(clips, near, Limit(min=16))
    assert {k: v["distance"] for k, v in scores.items()} == {
        "large": None,
        "middle": 3.0,
        "small": None,
    }

"""Lazy videos are read like arrays, and hold no frame."""

import tracemalloc
import weakref

import numpy as np
import pytest

from soraxla.core.errors import UserError
from soraxla.media import read, videos
from soraxla.media.lazy_video import FrameStore, LazyVideo, joined, lazy
from soraxla.media.read import lazy_clip, read_clip
from soraxla.media.write import write_video
from tests.media.clips import ramps

CLIP = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), np.uint8)
RANGES = [(0, 7), (2, 5), (4, 7), (3, 3), (5, 4), (-3, 7), (0, 99)]


@pytest.mark.parametrize(("start", "stop"), RANGES)
def test_a_lazy_video_has_the_slices_of_an_array(start, stop):
    store = FrameStore()
    store.stored(CLIP[:3])
    for video in (
        lazy(CLIP),
        joined(CLIP[:3], lazy(CLIP[3:6]), CLIP[:0], CLIP[6:]),
        joined(CLIP, CLIP)[7:],
        store.stored(lazy(CLIP)),
        lazy(255 - CLIP).each(lambda frame: 255 - frame, 4, 6),
    ):
        part, expected = video[start:stop], CLIP[start:stop]
        assert part.shape == expected.shape and len(part) == len(expected)
        assert part.dtype == np.uint8
        for _ in range(2):
            np.testing.assert_array_equal(np.asarray(part), expected)
        np.testing.assert_array_equal(np.asarray(part[1:3]), expected[1:3])


def test_only_the_frames_that_are_asked_for_are_read():
    read = []
    counted = LazyVideo(
        CLIP.shape, lambda a, b: (read.append(i) or CLIP[i] for i in range(a, b))
    )
    list(joined(CLIP, counted)[8:11])
    list(joined(counted, CLIP)[8:11])
    assert read == [1, 2, 3]


# --- From a file ------------------------------------------------------------------


def test_a_clip_is_decoded_anew_whenever_it_is_read(tmp_path):
    write_video(tmp_path / "a.mp4", ramps(11, 32, 48), 25)
    clip, whole = lazy_clip(tmp_path / "a.mp4"), read_clip(tmp_path / "a.mp4")
    assert clip.shape == whole.shape
    for part in (slice(0, 11), slice(8, 11), slice(2, 5)):
        np.testing.assert_array_equal(np.asarray(clip[part]), whole[part])
    write_video(tmp_path / "a.mp4", ramps(5, 32, 48), 25)
    with pytest.raises(UserError, match=r"a\.mp4: has become shorter; start again"):
        list(clip[3:7])


@pytest.mark.parametrize("suffix", ["mp4", "webp"])
def test_a_clip_of_too_many_frames_is_not_decoded(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    write_video(path, ramps(11, 32, 48), 25)
    assert len(lazy_clip(path, 11)) == 11
    monkeypatch.setattr(read, "read_frames", None)
    with pytest.raises(UserError, match="has 11 frames, expected at most 10: cut it"):
        lazy_clip(path, 10)


def test_a_clip_that_states_no_length_is_decoded_no_further_than_it_may(
    tmp_path, monkeypatch
):
    encoded, turn = tmp_path / "a.webm", videos._turn
    write_video(encoded, ramps(60, 32, 48), 25)
    decoded = []
    monkeypatch.setattr(videos, "_turn", lambda *args: decoded.append(1) or turn(*args))
    with pytest.raises(UserError, match="more than 10 frames, expected at most 10"):
        lazy_clip(encoded, 10)
    assert len(decoded) < 20


def test_of_a_file_few_decoded_frames_are_held(tmp_path, monkeypatch):
    """Their memory is the decoder's, which tracemalloc does not see."""
    write_video(tmp_path / "a.webp", ramps(20, 32, 48), 25)
    real, frames, held = read.read_frames, [], []

    def watched(path):
        for frame in real(path):
            frames.append(weakref.ref(frame))
            held.append(sum(ref() is not None for ref in frames))
            yield frame

    monkeypatch.setattr(read, "read_frames", watched)
    assert sum(1 for _ in lazy_clip(tmp_path / "a.webp")) == 20
    assert len(held) == 40 and max(held) <= 4


def test_a_clip_is_read_and_written_in_the_memory_of_a_few_frames(tmp_path):
    """Whatever its length: 60 frames of 230 kB."""
    frame = 240 * 320 * 3
    grey = LazyVideo(
        (60, 240, 320, 3),
        lambda a, b: (np.full((240, 320, 3), 4 * i, np.uint8) for i in range(a, b)),
    )
    write_video(tmp_path / "warm.mp4", grey[:2], 25)
    tracemalloc.start()
    try:
        write_video(tmp_path / "a.mp4", grey, 25)
        write_video(tmp_path / "b.gif", lazy_clip(tmp_path / "a.mp4")[10:20], 25)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * frame

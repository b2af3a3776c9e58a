"""Batches: clips of one size together, whatever the threads do; samples in order."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest

from data_pipelines import encoders
from data_pipelines.decode_ahead import decode_ahead
from data_pipelines.encoders import Batches, Encoders
from data_pipelines.sources.media import Media
from soraxla.core.errors import UserError
from tests.data_pipelines.test_prepare import encode_text, encode_videos


@dataclass(frozen=True)
class Named:
    """A sample that is its name, of a film."""

    uid: str
    file: str = ""

    def open(self):
        return Media(self.uid, 0.0, iter(()))


def clips(*sizes):
    return [np.full((*size, 3), 3 * i, np.uint8) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_batch_is_full_or_has_one_clip(monkeypatch, at_once):
    monkeypatch.setattr(encoders, "_BATCH", 2 * 32 * 32)  # pixels · latent frames
    shapes, lock = [], threading.Lock()

    def encode(videos):
        with lock:
            shapes.append(videos.shape[:3])
        return encode_videos(videos)

    sizes = (
        (1, 32, 32),
        (5, 32, 32),
        (1, 16, 16),
        (1, 32, 32),
        (9, 32, 32),
        (1, 32, 32),
    )
    videos = clips(*sizes)
    with ThreadPoolExecutor(at_once) as pool:
        batches = Batches(Encoders(encode, encode_text, 3, 8, at_once), pool)
        futures = [batches.video(video) for video in videos]
        text = batches.text("a caption")
        assert not text.done() and not futures[2].done()
        batches.flush()
    assert sorted(shapes) == [
        (1, 1, 16),
        (1, 1, 32),
        (1, 5, 32),
        (1, 9, 32),
        (2, 1, 32),
    ]
    for video, future in zip(videos, futures, strict=True):
        np.testing.assert_array_equal(future.result(), encode_videos(video[None])[0])
    assert len(text.result()) == 3


def test_a_wrong_result_of_an_encoder_is_an_error():
    encode = Encoders(encode_videos, lambda _: [np.zeros((0, 5))], 4, 8)
    with pytest.raises(
        UserError, match=r"the VAE made \(1, 2, 2, 3\) of \(1, 16, 16, 3"
    ):
        encode.latents(clips((1, 16, 16)))
    with pytest.raises(UserError, match=r"made \(0, 5\) of 'a', expected \(M, E\)"):
        encode.texts(["a"])


def test_samples_are_decoded_at_the_same_time_and_returned_in_order(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    together = threading.Barrier(3)

    def read(sample):
        if int(sample.uid) < 3:
            together.wait(timeout=30)
        yield from (f"{sample.uid}{letter}" for letter in "abc")
        if sample.uid == "4":
            raise UserError("is damaged")

    found = []
    for sample, items in decode_ahead([Named(str(i), str(i)) for i in range(7)], read):
        try:
            found += items
        except UserError:
            found.append(f"{sample.uid}!")
    expected = [f"{i}{letter}" for i in range(7) for letter in "abc"]
    assert [item for item in found if item != "4!"] == expected
    assert found[15] == "4!"


def test_clips_of_one_film_are_read_by_one_thread():
    threads = {}

    def read(sample):
        threads.setdefault(sample.file, set()).add(threading.get_ident())
        yield sample.uid

    samples = [Named(f"{film}{i}", film) for film in "ab" for i in range(4)]
    names = [name for _, items in decode_ahead(samples, read) for name in items]
    assert names == [sample.uid for sample in samples]
    assert all(len(used) == 1 for used in threads.values())


def test_threads_end_with_the_one_that_asks():
    before = threading.active_count()
    with closing(decode_ahead([Named("film")], lambda _: iter(int, 1))) as decoded:
        _, items = next(decoded)
        assert next(items) == 0
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before

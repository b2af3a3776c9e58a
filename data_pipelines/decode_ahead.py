"""Samples decoded by threads, ahead of the encoder, and returned in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from queue import Full, Queue
from typing import Any, TypeVar

from data_pipelines.sources.media import Sample

T = TypeVar("T")
_MOST_THREADS = 16
_AHEAD = 1  # items of a sample that wait; a piece of a film may have 100 MB
_PATIENCE = 0.1  # seconds until a waiting thread looks whether it is still needed
_END = object()


def decode_ahead(
    samples: Iterable[Sample], read: Callable[[Sample], Iterable[T]]
) -> Generator[tuple[Sample, Iterator[T]], None, None]:
    """Yields every sample with its items; both come in order.

    A sample's items must be used up before the next sample is asked for; an exception
    of `read` is raised among them. As many samples as there are cores are read at the
    same time. Consecutive clips of one film are read by one thread, which decodes the
    film once. The threads end when the generator is closed.
    """
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    coming = (list(clips) for _, clips in groupby(samples, _film))
    reading: deque[tuple[list[Sample], Queue[Any]]] = deque()
    stop = threading.Event()
    with ThreadPoolExecutor(threads, "soraxla decoder") as pool:

        def begin(film: list[Sample]) -> None:
            queue: Queue[Any] = Queue(_AHEAD)
            reading.append((film, queue))
            pool.submit(_read_film, film, read, queue, stop)

        try:
            for film in islice(coming, threads):
                begin(film)
            while reading:
                film, queue = reading[0]
                for sample in film:
                    yield sample, _items(queue)
                reading.popleft()
                for film in islice(coming, 1):
                    begin(film)
        finally:
            stop.set()


def _film(sample: Sample) -> object:
    """Returns what consecutive clips of one film have in common."""
    return getattr(sample, "file", sample.uid)


def _read_film(
    film: list[Sample],
    read: Callable[[Sample], Iterable[Any]],
    queue: Queue,
    stop: threading.Event,
) -> None:
    for sample in film:
        error: BaseException | None = None
        try:
            for item in read(sample):
                _offer(queue, item, stop)
                if stop.is_set():
                    return
        except BaseException as caught:
            error = caught
        _offer(queue, (_END, error), stop)


def _offer(queue: Queue, item: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            queue.put(item, timeout=_PATIENCE)
            return
        except Full:
            continue


def _items(queue: Queue) -> Iterator[Any]:
    while True:
        item = queue.get()
        if isinstance(item, tuple) and item[0] is _END:
            if item[1] is not None:
                raise item[1]
            return
        yield item

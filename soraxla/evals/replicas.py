"""Weights that every device of a host holds, so that clips are measured in parallel."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from soraxla.parallel.mesh import own_devices

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Replicas:
    """Parameters, copied to each device at their first use there."""

    params: PyTree = field(repr=False)
    _copies: dict[Any, PyTree] = field(default_factory=dict, repr=False)

    def here(self) -> PyTree:
        """Returns the copy on the device of this thread."""
        device = getattr(_current, "device", None) or own_devices()[0]
        if device not in self._copies:
            self._copies[device] = jax.device_put(self.params, device)
        return self._copies[device]


_current = threading.local()


def on_every_device(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields the results in order; each device of this host computes one at a time.

    A program is compiled for one device, so results have the same digits whatever the
    number of devices. The first results of the devices come one after the other: Flax
    cannot trace a network in two threads at once.
    """
    devices = own_devices()
    waiting = list(devices)
    tracing = threading.Lock()

    def begin() -> None:
        _current.device, _current.traced = waiting.pop(), False

    def run(item: T) -> R:
        alone = contextlib.nullcontext() if _current.traced else tracing
        with alone, jax.default_device(_current.device):
            found = function(item)
        _current.traced = True
        return found

    with ThreadPoolExecutor(len(devices), initializer=begin) as pool:
        yield from pool.map(run, items)

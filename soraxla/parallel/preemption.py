"""Notice of a machine that is about to be reclaimed."""

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """A context that notes SIGTERM: the machine is about to be reclaimed.

    With `interrupts` the first SIGINT (Ctrl-C, or a notebook's stop button) stops a run
    as SIGTERM does, and says so; a second one raises KeyboardInterrupt at once.
    """

    def __init__(self, *, interrupts: bool = False) -> None:
        self._seen = False
        # With several processes, JAX handles SIGTERM.
        alone = jax.process_count() == 1
        self._signals = [signal.SIGTERM] if alone else []
        self._signals += [signal.SIGINT] if interrupts else []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGINT:
            if self._seen:
                raise KeyboardInterrupt
            # Python's streams must not be written to inside a signal's handler.
            os.write(2, b"\ninterrupted: saving after this step; again: end at once\n")
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)
        self._seen = True

    def reached(self, step: int) -> bool:
        """Returns whether to stop after this step: the same step in all processes."""
        if jax.process_count() == 1:
            return self._seen
        return multihost_utils.reached_preemption_sync_point(step)

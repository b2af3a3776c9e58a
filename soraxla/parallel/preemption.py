"""Notice of a machine that is about to be reclaimed."""

import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """A context that notes SIGTERM: the machine is about to be reclaimed.

    With `interrupts` a run of one process also stops at the first SIGINT (Ctrl-C, or a
    notebook's stop button); a second one raises KeyboardInterrupt at once.
    """

    def __init__(self, *, interrupts: bool = False) -> None:
        self._seen = False
        self._signals = [signal.SIGTERM, *([signal.SIGINT] if interrupts else [])]
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:  # with several processes, JAX handles the signal
            for number in self._signals:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGINT and self._seen:
            raise KeyboardInterrupt
        self._seen = True

    def reached(self, step: int) -> bool:
        """Returns whether to stop after this step: the same step in all processes."""
        if jax.process_count() == 1:
            return self._seen
        return multihost_utils.reached_preemption_sync_point(step)

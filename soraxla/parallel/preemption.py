"""Notice of a machine that is about to be reclaimed."""

import signal

import jax
from jax.experimental import multihost_utils


class Preemption:
    """A context that notes SIGTERM: the machine is about to be reclaimed."""

    def __init__(self) -> None:
        self._seen = False

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:  # with several processes, JAX handles the signal
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_: object) -> None:
        self._seen = True

    def reached(self, step: int) -> bool:
        """Returns whether to stop after this step: the same step in all processes."""
        if jax.process_count() == 1:
            return self._seen
        return multihost_utils.reached_preemption_sync_point(step)

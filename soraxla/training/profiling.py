"""A trace of a few steps of a running training, started by a signal."""

import signal
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

FOLDER = "profile"
STEPS = 5


class Profiler:
    """A context in which SIGUSR1 traces the next 5 steps into `workdir/profile`.

    `xprof --logdir WORKDIR/profile` shows the trace. Each host traces when it receives
    the signal; since hosts run synchronously, one trace is enough.
    """

    def __init__(self, workdir: Path):
        self._folder = workdir / FOLDER
        self._asked = False
        self._last: int | None = None  # the last step of the trace that is being made

    def __enter__(self) -> "Profiler":
        self._previous = signal.signal(signal.SIGUSR1, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGUSR1, self._previous)
        if self._last is not None:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        """Begins a trace with this step, if one was asked for."""
        if self._asked and self._last is None:
            self._asked = False
            self._last = step + STEPS - 1
            jax.profiler.start_trace(self._folder)

    def after(self, step: int, result: Any) -> None:
        """Ends the trace with its last step, when `result` is there."""
        if step == self._last:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._last = None
            tqdm.write(f"traced steps {step - STEPS + 1} to {step}: {self._folder}")

    def _ask(self, *_: object) -> None:
        self._asked = True

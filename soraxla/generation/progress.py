"""Progress of sampling, over all clips of a call."""

import contextlib
from collections.abc import Callable, Iterator


class Progress:
    """The sampler steps of all clips that are done, and what is going on.

    Attributes:
        phase: "compiling", "sampling" or "decoding".
        done: steps of clips that are done.
        total: steps that are expected in all.
    """

    def __init__(self, show: Callable[["Progress"], None] = lambda _: None):
        """`show` is called after every change."""
        self._show = show
        self.phase, self.done, self.total = "sampling", 0, 0

    def expect(self, steps: int) -> None:
        """Adds steps to come; a negative number takes some back."""
        self.total += steps

    def step(self, clips: int) -> None:
        """Counts a step of so many clips."""
        self.phase, self.done = "sampling", self.done + clips
        self.total = max(self.total, self.done)
        self._show(self)

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Shows a phase until it ends, or a step is done."""
        self.phase = phase
        self._show(self)
        yield
        self.phase = "sampling"

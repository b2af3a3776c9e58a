"""The segments of coming steps, read by a pool of threads and returned in order."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain

from soraxla.packing.bin_packing import ScheduledRow, Visit
from soraxla.packing.pack import Segment

# Storage answers after a while, and many requests at once. Grain reads with as many.
READERS = 16


class ReadAhead(grain.IterDataset[list[list[Segment]]]):
    """The segments of each step's rows, in the order of the steps.

    While a step is waited for, the visits of the next steps are read, at least
    `READERS` of them. The state is the position after the last step that was returned.
    """

    def __init__(
        self,
        steps: grain.IterDataset[list[ScheduledRow]],
        read: Callable[[Visit], Segment],
    ):
        super().__init__(steps)
        self._read = read

    def __iter__(self) -> grain.DatasetIterator[list[list[Segment]]]:
        return _ReadAheadIterator(iter(self._parent), self._read)


class _ReadAheadIterator(grain.DatasetIterator[list[list[Segment]]]):
    def __init__(self, steps: grain.DatasetIterator, read: Callable[[Visit], Segment]):
        super().__init__(steps)
        self._steps, self._read = steps, read
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="soraxla reader")
        # Steps that are read: the state after each, and its rows.
        self._reading: deque[tuple[dict[str, Any], list[list[Future[Segment]]]]]
        self._reading = deque()
        self._state = steps.get_state()

    def __next__(self) -> list[list[Segment]]:
        while not self._reading or self._visits_ahead() < READERS:
            rows = next(self._steps)
            futures = [[self._pool.submit(self._read, v) for v in row] for row in rows]
            self._reading.append((self._steps.get_state(), futures))
        state, rows = self._reading.popleft()
        segments = [[future.result() for future in row] for row in rows]
        self._state = state
        return segments

    def _visits_ahead(self) -> int:
        """Returns the visits of the steps after the next one."""
        visits = [sum(map(len, rows)) for _, rows in self._reading]
        return sum(visits[1:])

    def get_state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._cancel()
        self._steps.set_state(dict(state))
        self._state = self._steps.get_state()

    def close(self) -> None:
        self._cancel()
        self._pool.shutdown()
        super().close()

    def _cancel(self) -> None:
        for _, rows in self._reading:
            for row in rows:
                for future in row:
                    future.cancel()
        self._reading.clear()

"""A sign of life on stderr while a command works on something without parts."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

_TERMINAL, _FILE = 1.0, 60.0  # seconds between two signs


@contextlib.contextmanager
def pulse(words: str) -> Iterator[None]:
    """Shows the words and the time since the start, until the work is done.

    A terminal has one line that counts seconds; a file gets a line each minute.
    """
    terminal, done, start = sys.stderr.isatty(), threading.Event(), time.monotonic()

    def beat() -> None:
        while True:
            minutes, seconds = divmod(round(time.monotonic() - start), 60)
            line = f"{words}: {minutes}:{seconds:02d}"
            print(
                f"\r{line}" if terminal else line,
                end="" if terminal else "\n",
                file=sys.stderr,
                flush=True,
            )
            if done.wait(_TERMINAL if terminal else _FILE):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if terminal:
            print(f"\r{'':<{len(words) + 10}}\r", end="", file=sys.stderr, flush=True)

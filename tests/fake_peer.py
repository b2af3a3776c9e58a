"""A peer script with no library: what `test_benchmarks.py` starts."""

import sys
import time

import numpy as np

from benchmarks.peer import serve

doubled = 2 * np.arange(int(sys.argv[1]), dtype=np.float32)


def slow() -> np.ndarray:
    print("what a library says is no answer")
    end = time.process_time() + 0.01  # work: on one core waiting is not counted
    while time.process_time() < end:
        pass
    return doubled


def dies() -> None:
    raise SystemExit(3)


serve(
    {"slow": (slow, lambda x: {"x": x}), "dies": (dies, lambda _: {})},
    {"versions": {"numpy": np.__version__}},
)

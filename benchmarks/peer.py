"""The other side of `benchmarks.harness.Peer`; needs Python and NumPy only.

A peer script builds its cases, then calls `serve`. Each line of standard input is a
command, each answer a line of standard output, both JSON:

    (at start)            → the argument `about` of `serve`
    ["run", CASE]         → seconds of one run, by `clock`
    ["save", CASE, FILE]  → true, when the arrays of one run are in FILE (.npz)
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]  # NumPy's
# One run, which waits for the device, and a function from its result to arrays.
Case = tuple[Callable[[], Any], Callable[[Any], Arrays]]


def clock() -> float:
    """Returns seconds of wall time, on one core of the process's CPU time.

    Other processes on the core affect its CPU time less.
    """
    one_core = len(os.sched_getaffinity(0)) == 1
    return time.process_time() if one_core else time.perf_counter()


def serve(cases: Mapping[str, Case], about: Mapping[str, Any]) -> None:
    """Answers until the input ends.

    Args:
        cases: by name.
        about: versions, flags and threads, for the reader of the numbers.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print, which is no answer
    print(json.dumps(dict(about)), file=answers)
    for line in sys.stdin:
        command, name, *rest = json.loads(line)
        run, arrays = cases[name]
        start = clock()
        result = run()
        seconds = clock() - start
        if command == "save":
            np.savez(rest[0], **arrays(result))
        print(json.dumps(seconds if command == "run" else True), file=answers)


def torch_matmul(torch: Any, dtype: str) -> Case:
    """Returns the plain product of `benchmarks.harness.matmul`, in torch."""
    side = 2048
    a = torch.ones((side, side), dtype=getattr(torch, dtype))
    return (lambda: a @ a), (lambda product: {"product": product.float().numpy()})

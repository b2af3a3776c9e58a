"""The other side of `benchmarks.harness.Peer`; needs Python and NumPy only.

A peer script builds its cases, then calls `serve`. Each line of standard input is a
command, each answer a line of standard output, both JSON:

    (at start)            → what `serve` was given as `about`
    ["run", CASE]         → seconds of one run
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
# One run, to the very end (wait for the device), and what turns its result into arrays.
Case = tuple[Callable[[], Any], Callable[[Any], Arrays]]


def serve(cases: Mapping[str, Case], about: Mapping[str, Any]) -> None:
    """Answers until the input ends.

    Args:
        cases: by name.
        about: versions, flags, threads: what a reader of the numbers must know.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    print(json.dumps(dict(about)), file=answers)
    for line in sys.stdin:
        command, name, *rest = json.loads(line)
        run, arrays = cases[name]
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
        if command == "save":
            np.savez(rest[0], **arrays(result))
        print(json.dumps(seconds if command == "run" else True), file=answers)


def torch_matmul(torch: Any, dtype: str) -> Case:
    """The plain product of `benchmarks.harness.matmul`, in torch."""
    side = 2048
    a = torch.ones((side, side), dtype=getattr(torch, dtype))
    return (lambda: a @ a), (lambda product: {"product": product.float().numpy()})

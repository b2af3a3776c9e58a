"""Races of contenders that take turns, and reports of their times.

The speed of a machine varies, so only the numbers of one race are compared. In every
round each contender runs once, in alternating order. A plain matrix product takes part
and shows how fast the machine was. The first call of a contender compiles and is
recorded apart. `check_equal` compares outputs before a race, because a faster wrong
answer is no result.

A contender that soraxla must not depend on (torch) is a `Peer`: a script under another
interpreter that exchanges arrays as .npz files and uses `benchmarks.peer`. Scripts run
as modules from the root: `python -m benchmarks.packing`.
"""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peer import clock
from soraxla.parallel.compiler import compiler_options, jit

ROOT = Path(__file__).parent.parent
CALIBRATION = 2048  # side of the matrices of the plain product
Contender = Callable[[], float]  # runs once and returns the seconds to its end


def timed(run: Callable[[], Any]) -> Contender:
    """Returns a contender of this process; `run` returns its arrays."""
    now = clock if jax.default_backend() == "cpu" else time.perf_counter

    def contender() -> float:
        start = now()
        jax.block_until_ready(run())
        return now() - start

    return contender


def matmul(dtype: str) -> Contender:
    """Returns the plain product in jax that calibrates other numbers."""
    a = jnp.ones((CALIBRATION, CALIBRATION), dtype)
    product = jit(jnp.matmul)
    return timed(lambda: product(a, a))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one contender."""

    first: float  # the first call, which compiles
    rounds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.rounds)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def record(self) -> dict[str, Any]:
        best = {"min_s": self.minimum, "median_s": self.median}
        return {"first_s": self.first, **best, "rounds_s": list(self.rounds)}


def race(contenders: Mapping[str, Contender], *, rounds: int = 7) -> dict[str, Timing]:
    """Times every contender: one call to warm up, then one per round.

    Raises:
        ValueError: fewer than 5 rounds, of which a median says little.
    """
    if rounds < 5:
        raise ValueError(f"{rounds} rounds say too little: run at least 5")
    names = list(contenders)
    first = {name: contenders[name]() for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        # The second contender finds a warmer machine, so the order alternates.
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(contenders[name]())
    return {n: Timing(first=first[n], rounds=tuple(seconds[n])) for n in names}


def ratio(slow: Timing, fast: Timing) -> dict[str, float]:
    """Returns the speed-up of `fast`: by minima, by medians, in the worst round."""
    pairs = zip(slow.rounds, fast.rounds, strict=True)
    return {
        "by_min": slow.minimum / fast.minimum,
        "by_median": slow.median / fast.median,
        "worst_round": min(a / b for a, b in pairs),
    }


def check_equal(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, tolerance: float
) -> dict[str, float]:
    """Returns ‖ours − theirs‖ / ‖theirs‖ of every array, in float64.

    Raises:
        ValueError: names, shapes or, by more than `tolerance`, values differ.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"outputs have different names, {sorted(ours)} and {sorted(theirs)}: give"
            " both sides the same ones"
        )
    errors = {}
    for name in ours:
        a, b = (np.asarray(side[name], np.float64) for side in (ours, theirs))
        if a.shape != b.shape:
            raise ValueError(f"{name}: shapes differ, {a.shape} and {b.shape}")
        errors[name] = float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
        if not errors[name] <= tolerance:  # a NaN is no equal either
            raise ValueError(
                f"{name}: outputs differ by {errors[name]:.2e}, more than"
                f" {tolerance:.0e}: make both sides compute the same before timing"
            )
    return errors


class Peer:
    """A contender's script under another interpreter; ends with the `with` block.

    The script imports from `root`, a checkout of any commit, and sees the environment
    `variables` beside this process's.

    Attributes:
        about: the versions and flags that the script reports.
    """

    def __init__(
        self,
        python: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        root: Path = ROOT,
        variables: Mapping[str, str] | None = None,
    ):
        script = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        self._process = subprocess.Popen(
            [python, "-P", str(script), *arguments],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._module = module
        try:
            self.about: dict[str, Any] = self._answer()
        except OSError:
            self.__exit__()  # closes the pipes to the process that died
            raise

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # its input ends, so it does
        self._process.wait()

    def case(self, name: str) -> Contender:
        """Returns the contender of this name, whose seconds the peer measures."""
        return lambda: self._ask("run", name)

    def outputs(self, name: str, file: Path) -> dict[str, np.ndarray]:
        """Runs a case once and returns its arrays, exchanged through `file` (.npz)."""
        self._ask("save", name, str(file.resolve()))
        with np.load(file) as arrays:
            return dict(arrays)

    def _ask(self, *command: str) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the peer has died, which reading reports
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OSError(
                f"the peer {self._module} ended with exit status"
                f" {self._process.wait()}: see its message above"
            )
        return json.loads(line)


def write_report(
    file: Path | None,
    results: Mapping[str, Any],
    *,
    timings: Mapping[str, Timing],
    peer: Peer | None = None,
) -> None:
    """Prints the timings, and writes them with their conditions as JSON."""
    width = max(map(len, timings), default=0)
    for name, t in timings.items():
        print(
            f"{name:{width}}  first {t.first:9.4f} s, then min {t.minimum:9.4f} s,"
            f" median {t.median:9.4f} s"
        )
    for name, value in results.items():
        print(f"{name}: {json.dumps(value)}")
    if file is None:
        return
    report = {
        **conditions(),
        **({"peer": peer.about} if peer else {}),
        "timings": {name: timing.record() for name, timing in timings.items()},
        "results": dict(results),
    }
    write_json(file, report)


def write_json(file: Path, report: Mapping[str, Any]) -> None:
    """Writes the whole report or none."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def conditions() -> dict[str, Any]:
    """Returns date, commit, command, versions, flags and machine of this run."""
    flags = {k: v for k, v in os.environ.items() if k.startswith(("XLA_", "JAX_"))}
    device = jax.devices()[0]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "clean": _git("status", "--porcelain") == "",
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "jaxlib", "numpy")},
        },
        "flags": {
            **flags,
            "compiler_options": compiler_options(),
            "where it convolves": compiler_options(convolves=True),
        },
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
            "device": f"{jax.device_count()} {device.platform} {device.device_kind}",
        },
    }


def _git(*command: str) -> str | None:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    amx = ", AMX" if any("amx_bf16" in line for line in lines) else ""
    return (named[0] if named else platform.processor()) + amx

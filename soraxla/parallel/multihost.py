"""Several processes as one: how they find each other, and who speaks for all.

Everything else about them is JAX's: each runs the same program on global arrays
(`jax.distributed`).
"""

import contextlib
import errno
import fcntl
import json
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from soraxla.core.errors import UserError

_PORT = 8476
_LOCK = ".lock"
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"


class Group(NamedTuple):
    """Processes that compute together, and which of them this is."""

    coordinator: str  # host:port of process 0
    processes: int
    process_id: int


def group(
    coordinator: str | None, processes: int | None, process_id: int | None
) -> Group | None:
    """The group that is named or, on a Cloud TPU of several workers, the metadata's.

    None is a process by itself.

    Raises:
        UserError: only some of the three are named, or they are no group.
    """
    given = (coordinator, processes, process_id)
    if given == (None, None, None):
        return (
            _tpu_group() if any(map(_there, ("/dev/accel*", "/dev/vfio/*"))) else None
        )
    if coordinator is None or processes is None or process_id is None:
        raise UserError(
            "a group of processes needs --coordinator, --processes and --process-id; "
            "give all three, or none on a Cloud TPU"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator {coordinator}: expected HOST:PORT of process 0")
    if not 0 <= process_id < processes:
        raise UserError(
            f"--process-id {process_id}: expected 0 to {processes - 1}, as --processes "
            f"is {processes}"
        )
    return Group(coordinator, processes, process_id)


def _there(pattern: str) -> bool:
    return any(Path("/").glob(pattern.lstrip("/")))


def _tpu_group() -> Group | None:
    """What the metadata server says to each worker of a Cloud TPU."""

    def attribute(name: str) -> str:
        request = urllib.request.Request(
            f"{_METADATA}/{name}", headers={"Metadata-Flavor": "Google"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    try:
        endpoints = attribute("worker-network-endpoints").split(",")
        worker = int(attribute("agent-worker-number"))
    except (OSError, ValueError):
        return None  # a TPU, but not of Google Cloud's virtual machines
    if len(endpoints) == 1:
        return None
    first = endpoints[0].split(":")[-1]  # a name, or name:id:address
    return Group(f"{first}:{_PORT}", len(endpoints), worker)


def join(group: Group, timeout: float = 300.0) -> None:
    """Waits for all processes of the group and makes them one for JAX.

    JAX ends the process without a word of who is missing, so they meet here first.

    Raises:
        UserError: not all came within `timeout` seconds; names who did not.
    """
    deadline = time.monotonic() + timeout
    host, _, port = group.coordinator.rpartition(":")
    if group.process_id == 0:
        _gather(group, int(port), deadline, timeout)
    else:
        _report(group, host, int(port), deadline, timeout)
    jax.distributed.initialize(*group)


def _gather(group: Group, port: int, deadline: float, timeout: float) -> None:
    """Process 0 waits for the others, and tells them who is missing."""
    came: dict[int, socket.socket] = {}
    with socket.create_server(("", port), backlog=group.processes) as server:
        while len(came) < group.processes - 1 and time.monotonic() < deadline:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
                connection.settimeout(10.0)
                process = int(connection.makefile().readline())
                if 0 < process < group.processes:
                    came[process] = connection
            except (TimeoutError, OSError, ValueError):
                continue  # nobody yet, or not one of us
    missing = sorted(set(range(1, group.processes)) - came.keys())
    for connection in came.values():
        with connection:
            connection.sendall(json.dumps(missing).encode() + b"\n")
    _refuse(missing, group, timeout)


def _report(
    group: Group, host: str, port: int, deadline: float, timeout: float
) -> None:
    """Another process says that it is there, and waits to hear of the rest."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=10.0) as connection:
                connection.sendall(f"{group.process_id}\n".encode())
                connection.settimeout(max(0.01, deadline - time.monotonic()) + 10.0)
                missing = json.loads(connection.makefile().readline())
        except (OSError, ValueError):
            time.sleep(0.2)
            continue
        _refuse(missing, group, timeout)
        return
    _refuse([0], group, timeout)


def _refuse(missing: list[int], group: Group, timeout: float) -> None:
    if missing:
        raise UserError(
            f"process {', '.join(map(str, missing))} of {group.processes} did not come "
            f"to {group.coordinator} within {timeout:g} s; look at its log, then start "
            "all of them again"
        )


def is_main() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array, on every host; all of them must ask."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Holds a lock on a folder, which goes with the process that holds it.

    A bucket that is mounted has locks within a machine only.

    Raises:
        UserError: another run holds it; in all processes alike.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        free, failed = True, None
        if is_main():
            try:
                free = _locked(stack.enter_context((workdir / _LOCK).open("w")))
            except OSError as error:
                free, failed = False, error
        if jax.process_count() > 1:
            free = bool(multihost_utils.broadcast_one_to_all(np.array(free)))
        if failed is not None:
            raise failed
        if not free:
            raise UserError(
                f"{workdir}: another run is at work here; wait for its end, or choose "
                "another folder"
            )
        yield


def _locked(file: IO[str]) -> bool:
    """Whether the file is locked by us now, or its file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise
    return True


class Preemption:
    """Tells a run that the machine is about to be taken from it (SIGTERM)."""

    def __init__(self) -> None:
        self._seen = False

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:  # else JAX listens for the signal
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_: object) -> None:
        self._seen = True

    def at(self, step: int) -> bool:
        """Whether to stop after this step: the same step in all processes."""
        if jax.process_count() == 1:
            return self._seen
        return multihost_utils.reached_preemption_sync_point(step)

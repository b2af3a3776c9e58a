"""The meeting of a process group's members, which names those that do not come."""

import json
import socket
import time

import jax

from soraxla.core.errors import UserError
from soraxla.parallel.cluster import ProcessGroup


def join(group: ProcessGroup, timeout: float = 300.0) -> None:
    """Waits for all processes of the group, then starts `jax.distributed`.

    JAX ends a process without naming the missing ones, so they meet here first.

    Raises:
        UserError: some process did not come within `timeout` seconds; named in the
            error.
    """
    deadline = time.monotonic() + timeout
    host, _, port = group.coordinator.rpartition(":")
    if group.process_id == 0:
        _gather(group, int(port), deadline, timeout)
    else:
        _report(group, host, int(port), deadline, timeout)
    jax.distributed.initialize(*group)


def _gather(group: ProcessGroup, port: int, deadline: float, timeout: float) -> None:
    """Waits for the others as process 0, and sends them the list of missing ones."""
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
                continue  # nobody yet, or a stranger
    missing = sorted(set(range(1, group.processes)) - came.keys())
    for connection in came.values():
        with connection:
            connection.sendall(json.dumps(missing).encode() + b"\n")
    _refuse(missing, group, timeout)


def _report(
    group: ProcessGroup, host: str, port: int, deadline: float, timeout: float
) -> None:
    """Reports to process 0, and waits for its list of missing processes."""
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


def _refuse(missing: list[int], group: ProcessGroup, timeout: float) -> None:
    if missing:
        raise UserError(
            f"process {', '.join(map(str, missing))} of {group.processes} did not come "
            f"to {group.coordinator} within {timeout:g} s; look at its log, then start "
            "all of them again"
        )

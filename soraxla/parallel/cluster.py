"""Process groups: named by the user, or found by the metadata of a Cloud TPU."""

import urllib.request
from pathlib import Path
from typing import NamedTuple

from soraxla.core.errors import UserError

_PORT = 8476
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"


class ProcessGroup(NamedTuple):
    """Processes that compute together, and the number of this one."""

    coordinator: str  # host:port of process 0
    processes: int
    process_id: int


def find_group(
    coordinator: str | None, processes: int | None, process_id: int | None
) -> ProcessGroup | None:
    """Returns the named group, or the one that a Cloud TPU's metadata names.

    None is a process without a group.

    Raises:
        UserError: only some of the three are named, or they are no group.
    """
    if (coordinator, processes, process_id) == (None, None, None):
        return (
            _tpu_group() if any(map(_exists, ("/dev/accel*", "/dev/vfio/*"))) else None
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
    return ProcessGroup(coordinator, processes, process_id)


def _exists(pattern: str) -> bool:
    return any(Path("/").glob(pattern.lstrip("/")))


def _tpu_group() -> ProcessGroup | None:
    """Returns the group that a Cloud TPU's metadata server names to each worker."""

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
        return None  # a TPU outside Google Cloud's virtual machines
    if len(endpoints) == 1:
        return None
    first = endpoints[0].split(":")[-1]  # the entry is an address, or name:id:address
    return ProcessGroup(f"{first}:{_PORT}", len(endpoints), worker)

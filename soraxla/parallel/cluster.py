"""Process groups: named by the user, or found by JAX on clusters that it knows."""

import os
from typing import NamedTuple

from soraxla.core.errors import UserError

_TIMEOUT = 300  # seconds until the name of process 0 must be known


class ProcessGroup(NamedTuple):
    """Processes that compute together, and the number of this one."""

    coordinator: str  # host:port of process 0
    processes: int
    process_id: int
    local_devices: tuple[int, ...] | None = None  # None is all of the machine


def find_group(
    coordinator: str | None, processes: int | None, process_id: int | None
) -> ProcessGroup | None:
    """Returns the named group, or the one that JAX finds; None is a process by itself.

    JAX knows Cloud TPUs, also of several slices and on GKE, Slurm and Open MPI.

    Raises:
        UserError: only some of the three are named, they are no group, or a cluster
            does not say which group it is.
    """
    if (coordinator, processes, process_id) == (None, None, None):
        return _found()
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


def _found() -> ProcessGroup | None:
    # JAX has no public name for its detection apart from `jax.distributed.initialize`,
    # which does not name processes that are missing.
    from jax._src import cloud_tpu_init
    from jax._src.clusters import ClusterEnv

    if "KUBERNETES_SERVICE_HOST" in os.environ and not (
        cloud_tpu_init.running_in_cloud_tpu_vm
    ):
        return None  # JAX would ask Kubernetes about a pod that may be by itself
    try:
        coordinator, processes, process_id, local_devices = (
            ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, _TIMEOUT
            )
        )
    except OSError:
        return None  # a TPU outside Google Cloud's virtual machines
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the cluster does not say which processes compute together ({error}); "
            "name them by --coordinator, --processes and --process-id"
        ) from error
    if coordinator is None or processes is None or process_id is None:
        return None
    if processes == 1:
        return None
    local = None if local_devices is None else tuple(local_devices)
    return ProcessGroup(coordinator, processes, process_id, local)

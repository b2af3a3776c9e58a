"""Processes find each other, or say who is missing; a folder has one run."""

import http.server
import os
import threading
import time

import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster, cluster

from soraxla.core.errors import UserError
from soraxla.parallel import rendezvous
from soraxla.parallel.cluster import ProcessGroup, find_group
from soraxla.parallel.file_lock import folder_lock
from soraxla.parallel.rendezvous import join
from tests.training.mesh_run import free_port

ENDPOINTS = "worker-network-endpoints"


def test_a_process_by_itself_is_no_group():
    assert find_group(None, None, None) is None
    assert find_group("host:1234", 2, 1) == ProcessGroup("host:1234", 2, 1)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (("host:1234", None, 0), "needs --coordinator, --processes and --process-id"),
        ((None, 2, 0), "give all three"),
        (("host", 2, 0), "--coordinator host: expected HOST:PORT"),
        (("host:port", 2, 0), "expected HOST:PORT"),
        (("host:1", 2, 2), "--process-id 2: expected 0 to 1"),
        (("host:1", 2, -1), "--process-id -1"),
    ],
)
def test_half_a_group_is_refused(named, message):
    with pytest.raises(ValueError, match=message):
        find_group(*named)


# --- Cloud TPU ----------------------------------------------------------------------


@pytest.fixture
def metadata(monkeypatch):
    """A metadata server with the attributes of the dict, for a machine with chips."""
    pytest.importorskip("requests")  # JAX reads metadata with it
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            known = name in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_): ...

    server = http.server.HTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"localhost:{server.server_port}")
    for name in list(os.environ):  # libtpu sets some once it has been loaded
        if name.startswith(("TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    for module in (cloud_tpu_init, cluster, cloud_tpu_cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster.socket, "gethostbyname", lambda name: name)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield attributes
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("endpoints", ["ten,eleven", "a:x:ten,b:y:eleven"])
def test_a_worker_of_a_pod_knows_its_group(metadata, endpoints):
    metadata |= {ENDPOINTS: endpoints, "agent-worker-number": "1", "tpu-env": ""}
    assert find_group(None, None, None) == ProcessGroup("ten:8482", 2, 1)


def test_a_worker_on_gke_knows_its_group(metadata, monkeypatch):
    """Before it was by itself, and each worker trained in the one folder."""
    metadata["tpu-env"] = ""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "ten,eleven,twelve")
    monkeypatch.setenv("TPU_WORKER_ID", "2")
    assert find_group(None, None, None) == ProcessGroup("ten:8482", 3, 2)


def test_workers_of_several_slices_are_one_group(metadata, monkeypatch):
    for name, value in {
        "TPU_WORKER_HOSTNAMES": "ten,eleven",
        "TPU_WORKER_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "first:8080",
        "MEGASCALE_NUM_SLICES": "3",
        "MEGASCALE_SLICE_ID": "2",
    }.items():
        monkeypatch.setenv(name, value)
    assert find_group(None, None, None) == ProcessGroup("first:8482", 6, 5)


def test_one_worker_or_another_kind_of_machine_is_by_itself(metadata, monkeypatch):
    assert find_group(None, None, None) is None
    one = {ENDPOINTS: "ten", "agent-worker-number": "0", "tpu-env": ""}
    metadata |= one
    assert find_group(None, None, None) is None
    monkeypatch.setenv("GCE_METADATA_IP", f"localhost:{free_port()}")
    assert find_group(None, None, None) is None


def test_a_group_that_cannot_be_found_is_named_by_the_user(metadata, monkeypatch):
    metadata |= {ENDPOINTS: "a:b", "agent-worker-number": "0", "tpu-env": ""}
    with pytest.raises(UserError, match="name them by --coordinator"):
        find_group(None, None, None)


def test_a_pod_without_tpus_is_by_itself(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(
        cluster.ClusterEnv, "auto_detect_unset_distributed_params", None
    )
    assert find_group(None, None, None) is None


# --- Meeting ------------------------------------------------------------------------


@pytest.fixture
def joined(monkeypatch):
    """Starts processes of a group as threads; gives what each ended with."""
    came = []
    monkeypatch.setattr(
        rendezvous.jax.distributed, "initialize", lambda *group: came.append(group[2])
    )

    def run(processes, ids, timeout, stranger=False):
        coordinator, ends = f"localhost:{free_port()}", {}

        def one(i):
            try:
                join(ProcessGroup(coordinator, processes, i), timeout)
            except UserError as error:
                ends[i] = str(error)

        threads = [threading.Thread(target=one, args=(i,)) for i in ids]
        for thread in reversed(threads):  # process 0 comes last
            thread.start()
            time.sleep(0.05)
        for thread in threads:
            thread.join(timeout=20)
        return sorted(came), ends

    return run


def test_all_that_come_are_one(joined):
    assert joined(4, range(4), 20.0) == ([0, 1, 2, 3], {})


def test_every_process_names_those_that_did_not_come(joined):
    came, ends = joined(5, [0, 1, 3], 1.0)
    assert came == [] and set(ends) == {0, 1, 3}
    for message in ends.values():
        assert message.startswith("process 2, 4 of 5 did not come to localhost:")
        assert "within 1 s" in message


def test_without_process_0_the_others_say_so(joined):
    came, ends = joined(2, [1], 0.5)
    assert came == [] and "process 0 of 2 did not come" in ends[1]


# --- One run a folder ---------------------------------------------------------------


def test_a_second_run_in_a_folder_is_refused_until_the_first_ends(tmp_path):
    second = folder_lock(tmp_path)
    with folder_lock(tmp_path):
        with pytest.raises(UserError, match="another run is at work here"):
            second.__enter__()
        with folder_lock(tmp_path / "other"):
            pass
    with folder_lock(tmp_path):
        pass

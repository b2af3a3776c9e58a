"""The TPU compiler takes what we train and decode with; no TPU is needed."""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("libtpu")

TOPOLOGY = "v5e:2x2"
QUIET = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "XLA_FLAGS": "",
}


def compile_for(topology, *programs):
    """Returns memory and number of kernels of each program, from another process.

    libtpu prints, and must not run in a process with eight fake CPU devices.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.tpu_programs", topology, *programs],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def compiled():
    return compile_for(TOPOLOGY, "train_step", "vae_decode")


@pytest.mark.parametrize("program", ["train_step", "vae_decode"])
def test_the_program_compiles_and_its_memory_is_known(compiled, program):
    memory = compiled[program]
    assert memory["arguments"] > 0 and memory["output"] > 0
    # The small programs fit a v5e, 16 GB, with much room.
    assert sum(memory.values()) < 1 << 30


def test_the_state_is_donated(compiled):
    """A step writes its state over the one it was given."""
    step = compiled["train_step"]
    assert step["aliased"] > 0.9 * step["output"]


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2"])
def test_attention_is_a_few_kernels_and_no_matrix_of_logits(topology):
    """Forward, and backward for q and for k and v. One matrix would be 1 GB, and that
    of the long row, which is cut into shares, 34 TB."""
    compiled = compile_for(topology, "attention_gradient", "long_attention")
    gradient, long = compiled["attention_gradient"], compiled["long_attention"]
    assert (gradient["kernels"], long["kernels"]) == (3, 1)
    assert gradient["temporary"] < 64 << 20
    assert long["temporary"] < 6 * long["output"]


HOSTS = """
import ast, json, sys
from jax.experimental import topologies
from soraxla.parallel.mesh import MeshConfig, make_mesh, host_rows

topology, sizes = sys.argv[1:]
found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
mesh = make_mesh(MeshConfig(**ast.literal_eval(sizes)), found.devices)
hosts = sorted({device.process_index for device in found.devices})
print(json.dumps([host_rows(128, mesh, process=host) for host in hosts]))
"""


@pytest.mark.parametrize(
    ("topology", "sizes", "holders"),
    [
        ("v5e:4x4", {}, 1),
        ("v5e:8x8", {}, 1),
        ("v5p:4x4x4", {"fsdp": 32, "context": 2}, 1),
        ("v5p:4x4x4", {"fsdp": 4, "context": 16}, 4),
        ("v6e:8x8", {"fsdp": 16, "context": 4}, None),
    ],
    ids=str,
)
def test_hosts_of_a_torus_share_the_rows(topology, sizes, holders):
    """A mesh follows the torus, and need not cut along whole axes of it."""
    done = subprocess.run(
        [sys.executable, "-c", HOSTS, topology, str(sizes)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shares = json.loads(done.stdout.splitlines()[-1])
    assert len({len(share) for share in shares}) == 1
    held = collections.Counter(row for share in shares for row in share)
    assert sorted(held) == list(range(128))
    assert holders is None or set(held.values()) == {holders}

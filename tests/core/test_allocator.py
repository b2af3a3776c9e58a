import os
import subprocess
import sys

import pytest

from soraxla.core.allocator import keep_freed_pages

# Twenty arrays that glibc would otherwise map anew: pages that are touched again fault.
FAULTS = """
import resource
from soraxla.core.allocator import keep_freed_pages
assert keep_freed_pages()
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**22)
before = faults()
for _ in range(20):
    np.ones(2**22)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    out = subprocess.run(
        [sys.executable, "-c", FAULTS],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert int(out.stdout) < 100  # 10,560 with glibc's own settings


@pytest.mark.parametrize(
    ("variables", "imported", "installed"),
    [
        ({"JAX_PLATFORMS": "tpu"}, False, ""),
        ({"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "4"}, False, ""),
        (
            {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
            False,
            "",
        ),
        ({"JAX_PLATFORMS": "cpu"}, True, ""),
        ({}, False, "libtpu"),
        ({}, False, "jax_plugins"),
    ],
)
def test_the_allocator_is_left_alone(monkeypatch, variables, imported, installed):
    """On accelerators, after JAX has started, and where a user has set it."""
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("mallopt is called"))
    monkeypatch.setattr(
        "soraxla.core.allocator.find_spec",
        lambda name: name if name == installed else None,
    )
    if not imported:
        monkeypatch.delitem(sys.modules, "jax")
    for name in ("JAX_PLATFORMS", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not keep_freed_pages()

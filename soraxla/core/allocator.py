"""The settings of glibc's memory allocator for computing on a CPU.

XLA allocates the activations of every step anew. By default, glibc returns large blocks
to the operating system when they are freed, and each step pays for its page faults:
about a quarter of a small step's CPU time (see benchmarks/README.md).
"""

import ctypes
import os
import sys
from importlib.util import find_spec

# Parameters of mallopt, from malloc.h, and their values: one arena for all threads, no
# block outside of it, nothing returned from its top, which grows by 500 MB.
_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD = -8, -4, -1, -2
_KEPT = (
    (_M_ARENA_MAX, 1),
    (_M_MMAP_MAX, 0),
    (_M_TRIM_THRESHOLD, 2**31 - 1),
    (_M_TOP_PAD, 500_000_000),
)


def keep_freed_pages() -> bool:
    """Makes this process keep the memory it frees, and returns whether it does.

    Must be called before JAX is imported, as its threads get their arenas then. Does
    nothing where JAX would use an accelerator, where the C library is not glibc, or
    where the environment sets the allocator.
    """
    if "jax" in sys.modules or not _on_cpu() or _set_by_user():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if not sys.platform.startswith("linux") or mallopt is None:
        return False
    return all([mallopt(name, value) == 1 for name, value in _KEPT])


def _on_cpu() -> bool:
    named = os.environ.get("JAX_PLATFORMS")
    if named:
        return named == "cpu"
    return find_spec("libtpu") is None and find_spec("jax_plugins") is None


def _set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    names = [*os.environ, *tunables]
    return any(n.startswith(("MALLOC_", "glibc.malloc", "LD_PRELOAD")) for n in names)

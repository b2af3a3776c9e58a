"""Choices by platform: compiler options, and the dtype of frozen encoders."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def platform() -> str:
    """Returns "cpu", "tpu" or "gpu": the current mesh's, else the default backend's."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return device.platform if device is not None else jax.default_backend()


def compiler_options(*, convolves: bool = False) -> dict[str, Any]:
    """Returns the compiler options of `platform()`.

    On a CPU, programs with convolutions use oneDNN custom calls: convolutions run 5–40×
    faster in fp32 and bf16, and attention runs slower.
    """
    if convolves and platform() == "cpu":
        return {"xla_cpu_experimental_onednn_custom_call": True}
    return {}


def fast_product_dtype() -> str:
    """Returns the fastest dtype of factors whose products are summed in fp32."""
    return "float32" if platform() == "cpu" and not _cpu_has_bf16() else "bfloat16"


@functools.cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def encoder_dtype() -> str:
    """Returns the dtype of pretrained encoders: CPUs are slow in bfloat16."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def jit(function: Callable, *, convolves: bool = False, **kwargs: Any) -> Any:
    """Compiles as `jax.jit` does, with `compiler_options()`."""
    options = compiler_options(convolves=convolves)
    return jax.jit(function, compiler_options=options, **kwargs)

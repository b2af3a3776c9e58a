"""Choices by platform: compiler options, and the dtype of frozen encoders."""

from collections.abc import Callable
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


def encoder_dtype() -> str:
    """Returns the dtype of pretrained encoders: CPUs are slow in bfloat16."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def jit(function: Callable, *, convolves: bool = False, **kwargs: Any) -> Any:
    """Compiles as `jax.jit` does, with `compiler_options()`."""
    options = compiler_options(convolves=convolves)
    return jax.jit(function, compiler_options=options, **kwargs)

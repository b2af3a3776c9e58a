"""What is chosen by platform: compiler options, and the type of frozen encoders."""

from collections.abc import Callable
from typing import Any

import jax


def platform() -> str:
    """Of the mesh that is set, else of the default backend: "cpu", "tpu" or "gpu"."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return device.platform if device is not None else jax.default_backend()


def compiler_options(*, convolves: bool = False) -> dict[str, Any]:
    """Options for `platform()`.

    On a CPU, oneDNN custom calls for what convolves: convolutions run 5–40× faster in
    fp32 and bf16. Attention runs slower with them.
    """
    if convolves and platform() == "cpu":
        return {"xla_cpu_experimental_onednn_custom_call": True}
    return {}


def encoder_dtype() -> str:
    """What pretrained encoders are kept and computed in: CPUs are slow in bfloat16."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def jit(function: Callable, *, convolves: bool = False, **kwargs: Any) -> Any:
    """`jax.jit` with `compiler_options()`."""
    options = compiler_options(convolves=convolves)
    return jax.jit(function, compiler_options=options, **kwargs)

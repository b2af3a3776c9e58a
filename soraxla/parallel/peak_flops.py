"""Peak FLOPs of accelerators, for the share of them that a training uses (MFU)."""

import re
from typing import Any

# Published dense bf16 peaks in TFLOP/s of one JAX device, by its
# `device_kind`, from cloud.google.com/tpu/docs and NVIDIA's data sheets. A device is a
# core, half a chip, of TPU v2, v3 and 7x.
_BF16_TERAFLOPS = {
    "TPU v2": 46.0 / 2,
    "TPU v3": 123.0 / 2,
    "TPU v4": 275.0,
    "TPU v4 lite": 137.0,
    "TPU v5e": 197.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6e": 918.0,
    "TPU v6 lite": 918.0,
    "TPU7x": 2307.0 / 2,
    "NVIDIA A100": 312.0,
    "NVIDIA H100": 989.4,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H200": 989.4,
    "NVIDIA H200 NVL": 835.5,
}


def peak_flops(device: Any) -> float | None:
    """Returns the bf16 FLOPs per second of a JAX device at most; None if unknown.

    A part of a GPU (MIG) is unknown.
    """
    kind = getattr(device, "device_kind", "")
    name = kind
    if kind.startswith("NVIDIA") and " MIG " not in kind:
        # Memory and form follow the name: "NVIDIA A100-SXM4-80GB".
        fit = [n for n in _BF16_TERAFLOPS if re.match(rf"{n}\b", kind)]
        name = max(fit, key=len, default="")
    return 1e12 * _BF16_TERAFLOPS[name] if name in _BF16_TERAFLOPS else None

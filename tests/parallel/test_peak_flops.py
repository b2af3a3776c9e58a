"""Peaks are found by the name that JAX has for a device."""

from types import SimpleNamespace

import jax
import pytest

from soraxla.parallel.peak_flops import peak_flops
from soraxla.tools.topologies import CHIPS


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v2", 23.0),
        ("TPU v4", 275.0),
        ("TPU v5 lite", CHIPS["v5e"].bf16_teraflops),
        ("TPU v5p", CHIPS["v5p"].bf16_teraflops),
        ("TPU v6 lite", CHIPS["v6e"].bf16_teraflops),
        ("TPU7x", CHIPS["tpu7x"].bf16_teraflops),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
    ],
)
def test_a_known_device_has_its_peak(kind, teraflops):
    assert peak_flops(SimpleNamespace(device_kind=kind)) == teraflops * 1e12


@pytest.mark.parametrize(
    "kind", ["TPU v9", "NVIDIA A10", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "AMD A100", ""]
)
def test_an_unknown_device_has_none(kind):
    assert peak_flops(SimpleNamespace(device_kind=kind)) is None


def test_a_cpu_has_none():
    assert peak_flops(jax.devices("cpu")[0]) is None

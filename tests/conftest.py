"""Eight fake CPU devices, strict ranks, and small shared fixtures."""

import os

import jax
import pytest

# Nothing in the user's own cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def lossless(monkeypatch):
    """Studios have the VAE of `tests.lossless`."""
    from tests.lossless import decode, encode

    monkeypatch.setattr("soraxla.generation.context.encode_clip", encode)
    monkeypatch.setattr("soraxla.generation.context.decode_clip", decode)

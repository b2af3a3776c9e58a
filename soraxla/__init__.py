"""Sora in JAX for TPU pods: one packed video diffusion transformer for every task."""

__version__ = "0.1.0"

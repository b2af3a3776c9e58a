"""Weights that are shipped: a small VAE, and a model of simulated worlds."""

from pathlib import Path

_HERE = Path(__file__).parent


def small_vae() -> Path:
    """Returns the model folder of the shipped VAE; its README is the card."""
    return _HERE / "vae_small"


def worlds_model() -> Path:
    """Returns the exported folder of the shipped model; its README is the card."""
    return _HERE / "worlds"

"""Weights that are shipped: a small VAE, a model of simulated worlds, and its probe."""

from pathlib import Path

_HERE = Path(__file__).parent


def small_vae() -> Path:
    """Returns the model folder of the shipped VAE; its README is the card."""
    return _HERE / "vae_small"


def worlds_model() -> Path:
    """Returns the exported folder of the shipped model; its README is the card."""
    return _HERE / "worlds"


def worlds_probe() -> Path:
    """Returns the folder of the shipped worlds probe; its README is the card."""
    return _HERE / "worlds_probe"

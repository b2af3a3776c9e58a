"""What is shipped with the package: a small VAE."""

from pathlib import Path


def small_vae() -> Path:
    """The weights folder of the VAE that soraxla ships; its README is the card."""
    return Path(__file__).parent / "vae_small"

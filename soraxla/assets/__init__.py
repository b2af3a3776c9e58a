"""Weights that are shipped: a small VAE, and a model of simulated worlds."""

from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent


class GenerationDefaults(NamedTuple):
    """Defaults of `soraxla generate` for a model: the sizes that it has seen most.

    A clip is extended by `onward` frames at once; None is as many as the model was
    trained with. Connections and loops start at the strength `bridge`. Of a video with
    joins, `takes` are sampled, with condition tokens noised to `condition_noise`.
    """

    width: int
    height: int
    frames: int
    fps: float
    onward: int | None = None
    bridge: float = 1.0
    takes: int = 1
    condition_noise: float = 0.0


# The defaults of every other model.
DEFAULTS = GenerationDefaults(width=256, height=256, frames=1, fps=24.0)

# With clean condition tokens, this model raises the contrast from window to window.
WORLDS = GenerationDefaults(
    width=64,
    height=64,
    frames=33,
    fps=16.0,
    onward=8,
    bridge=0.0,
    takes=4,
    condition_noise=0.03,
)


def small_vae() -> Path:
    """Returns the model folder of the shipped VAE; its README is the card."""
    return _HERE / "vae_small"


def worlds_model() -> Path:
    """Returns the exported folder of the shipped model; its README is the card."""
    return _HERE / "worlds"

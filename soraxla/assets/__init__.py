"""What is shipped with the package: a small VAE, and a model of simulated worlds."""

from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent


class GenerationDefaults(NamedTuple):
    """The size that a model has seen most of.

    `onward` are the frames that a clip is best extended by at once; None is as many as
    the model was trained with. Connections and loops start at the strength `bridge`.
    `takes` are made of what is to join given frames, which are noised to the time
    `condition_noise`.
    """

    width: int
    height: int
    frames: int
    fps: float
    onward: int | None = None
    bridge: float = 1.0
    takes: int = 1
    condition_noise: float = 0.0


# Of clean frames it makes ever more contrast.
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
    """The weights folder of the VAE that soraxla ships; its README is the card."""
    return _HERE / "vae_small"


def worlds_model() -> Path:
    """The exported folder of the model that soraxla ships; its README is the card."""
    return _HERE / "worlds"

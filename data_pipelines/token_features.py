"""Features of each token of a clip, which a training may align its own tokens with."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.transforms import TEMPORAL
from soraxla.core.types import latent_frames

Frames = UInt8[np.ndarray, "f y x 3"]
Ids = UInt8[np.ndarray, "f y x"]

SIMULATOR = "simulator"  # the source of `simulated`
SIMULATED_WIDTH = 21
_IDS = 16  # ids modulo this are distinct


class TokenFeatures(NamedTuple):
    """A function of a clip's frames and ids to its features, and their identity.

    Attributes:
        source, sha256: names of the function and of its weights.
        width: numbers of a token.
        of: returns (t, h, w, width) on a grid that latents or tokens have.
    """

    source: str
    sha256: str
    width: int
    of: Callable[[Frames, Ids | None], Float[np.ndarray, "t h w f"]]

    def record(self) -> dict[str, str | int]:
        """Returns the entry of `dataset.json`."""
        return {"source": self.source, "sha256": self.sha256, "width": self.width}


def simulated(
    frames: Frames, ids: Ids | None, *, spatial: int
) -> Float[np.ndarray, "t h w 21"]:
    """Returns what a simulator knows of each latent: ids, colours, velocities.

    The numbers are the share of pixels of each id modulo 16, with the background's; the
    objects' mean colour in 0…1; and their mean velocity, the way of the middle of an
    object's visible pixels since the last latent frame, in tenths of the frame's sides.
    Objects count with their share of the pixels.

    Args:
        spatial: pixels of a latent's side.
    """
    assert ids is not None
    t = latent_frames(len(frames), TEMPORAL)
    starts = np.maximum(0, 1 + TEMPORAL * np.arange(-1, t - 1))
    owner = ids.astype(np.int64) % _IDS
    shares = np.eye(_IDS, dtype=np.float32)[owner]  # (f, y, x, 16)
    colours = (owner > 0)[..., None] * frames.astype(np.float32) / 255.0
    moved = _moved(owner, starts)  # (t, 16, 2)
    cells = [
        _mean_of_cells(np.add.reduceat(x, starts, axis=0), spatial)
        for x in (shares, colours)
    ]
    counts = np.diff([*starts, len(frames)]).astype(np.float32)[:, None, None, None]
    shares, colours = (x / counts for x in cells)
    velocity = np.einsum("thwi,tic->thwc", shares, moved)
    return np.concatenate([shares, colours, velocity], axis=-1)


def _moved(owner: np.ndarray, starts: np.ndarray) -> Float[np.ndarray, "t 16 2"]:
    """Returns the way of each id's middle since the last latent frame, in tenths."""
    height, width = owner.shape[1:]
    moved = np.zeros((len(starts), _IDS, 2), np.float32)
    last: dict[int, np.ndarray] = {}
    for i, frame in enumerate(owner[starts]):
        for each in np.unique(frame[frame > 0]):
            y, x = np.nonzero(frame == each)
            middle = 10.0 * np.array([x.mean() / width, y.mean() / height])
            moved[i, each] = middle - last.get(each, middle)
            last[each] = middle
    return moved


def _mean_of_cells(x: np.ndarray, side: int) -> np.ndarray:
    t, height, width, numbers = x.shape
    cells = x.reshape(t, height // side, side, width // side, side, numbers)
    return cells.mean(axis=(2, 4))


def on_grid(
    features: Float[np.ndarray, "t h w f"], height: int, width: int
) -> Float[np.ndarray, "t hh ww f"]:
    """Returns features on a grid of tokens: means of finer cells, or repeated ones."""
    h, w = features.shape[1:3]
    if h >= height:
        return _mean_of_cells(features.astype(np.float32), h // height)
    return features.repeat(height // h, axis=1).repeat(width // w, axis=2)

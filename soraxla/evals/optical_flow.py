"""The motion in clips, by RAFT's optical flow."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import Clip
from soraxla.evals.replicas import Replicas
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.vision import raft
from soraxla.parallel.compiler import jit

RATE = 8  # frames a second that VBench looks at
_LEAST = 64  # pixels of a side
_FAST = 0.05  # share of the pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class OpticalFlow:
    """The weights of RAFT, with their hash."""

    name: str = "raft"
    sha256: str
    replicas: Replicas

    def speeds(self, clip: Clip) -> Float[np.ndarray, "pairs 2"]:
        """Returns the mean speed, and that of the fastest twentieth of the pixels.

        The speeds, in pixels, are of each pair of frames that follow each other, of
        about eight a second.
        """
        return clip.cached(self.sha256, lambda: self._speeds(sampled(clip)))

    def _speeds(self, frames: UInt8[np.ndarray, "t h w 3"]) -> np.ndarray:
        padded = _padded(frames)
        found = np.zeros((len(frames) - 1, 2))
        for i, pair in enumerate(itertools.pairwise(padded)):
            one, other = (frame[None].astype(np.float32) for frame in pair)
            moved = np.asarray(_compiled()(self.replicas.here(), one, other))
            speed = np.sort(np.hypot(moved[..., 0], moved[..., 1]).ravel())
            fast = max(1, int(len(speed) * _FAST))
            found[i] = speed.mean(dtype=float), speed[-fast:].mean(dtype=float)
        return found


def load_flow(folder: Path) -> OpticalFlow:
    """Returns RAFT's weights of a folder of `tools.convert_features`.

    Raises:
        UserError: as `soraxla.models.vision.raft.load`, or no such folder.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: holds no weights of raft; download raft-things.pth of RAFT and "
            "convert it, where torch is installed, with `python -m "
            f"soraxla.tools.convert_features raft raft-things.pth {folder}`"
        )
    params, _ = raft.load(folder)
    return OpticalFlow(sha256=sha256_of_tree(params), replicas=Replicas(params))


def sampled(clip: Clip) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns the frames that VBench samples, about eight a second.

    A clip of unknown rate counts as one of eight frames a second.
    """
    return clip.frames[:: max(1, round((clip.fps or RATE) / RATE))]


def _padded(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t H W 3"]:
    """Repeats edges up to sides of multiples of 8, as the network needs."""
    sides = []
    for n in frames.shape[1:3]:
        more = max(-n % raft.STRIDE, _LEAST - n)
        sides.append((more // 2, more - more // 2))
    return np.pad(frames, [(0, 0), *sides, (0, 0)], mode="edge")


@functools.cache
def _compiled() -> Callable:
    return jit(raft.flow, convolves=True)

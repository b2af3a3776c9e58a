"""VGG16's convolutions (arXiv 1409.1556); their features compare pictures."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from soraxla.core.types import Array

# (channels, convolutions) of each block; the blocks' sides halve.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
SMALLEST = 2 ** (len(BLOCKS) - 1)  # pixels on a side that leave the last block one


def layers() -> list[tuple[str, int, int]]:
    """Returns the name, the input and the output channels of each convolution."""
    names = [f"block{b}_conv{i}" for b, (_, n) in enumerate(BLOCKS) for i in range(n)]
    widths = [3, *(channels for channels, n in BLOCKS for _ in range(n))]
    return [(name, *pair) for name, pair in zip(names, pairwise(widths), strict=True)]


def features(
    params: PyTree, x: Float[Array, "n h w 3"]
) -> list[Float[Array, "n _ _ _"]]:
    """Returns the last features of each block, after its ReLU, of pixels in −1…1.

    Args:
        params: `kernel` and `bias` of each of `layers`, and of "input" the `scale` and
            `shift` that make pixels the network's input.
    """
    shape = (1, 1, 1, -1)
    x = x * params["input"]["scale"].reshape(shape)
    x = x + params["input"]["shift"].reshape(shape)
    found = []
    for b, (_, convolutions) in enumerate(BLOCKS):
        x = _halved(x) if b else x
        for i in range(convolutions):
            layer = params[f"block{b}_conv{i}"]
            x = jax.lax.conv_general_dilated(
                jnp.asarray(x),
                layer["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x + layer["bias"].reshape(shape))
        found.append(x)
    return found


def distance(
    params: PyTree, one: Float[Array, "n h w 3"], other: Float[Array, "n h w 3"]
) -> Float[Array, ""]:
    """Returns the mean distance of frames, in −1…1, in the features of `features`.

    As in LPIPS (arXiv 1801.03924), each position's features are divided by their norm,
    and the squared distance is averaged over positions. The blocks' distances are
    added.
    """
    pairs = zip(features(params, one), features(params, other), strict=True)
    squares = [jnp.square(_directions(a) - _directions(b)) for a, b in pairs]
    return sum((jnp.mean(jnp.sum(s, axis=-1)) for s in squares), jnp.zeros(()))


def _directions(x: Array) -> Array:
    # Under the root, or features of 0 would have a gradient that is not finite.
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def _halved(x: Array) -> Array:
    """Returns the maxima of 2×2 positions, without an odd last row or column."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return jnp.max(x, axis=(2, 4))

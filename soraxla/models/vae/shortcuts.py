"""Shortcuts around the stages of Wan 2.2's residual VAE, without weights.

A stage that changes the resolution adds its resampled input to its output; pixels move
between space, time and channels. Frames are grouped as in the causal layers: frame 0,
then whole groups. A chunk of whole groups therefore only needs to know whether a chunk
precedes it.
"""

import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jaxtyping import Float

from soraxla.core.types import Array


def fold_pixels(
    x: Float[Array, "b t hp wp c"], patch: int
) -> Float[Array, "b t h w cpp"]:
    """Returns patches of pixels as channels (c, column, row), the row fastest."""
    return rearrange(x, "b t (h p) (w q) c -> b t h w (c q p)", p=patch, q=patch)


def unfold_pixels(
    x: Float[Array, "b t h w cpp"], patch: int
) -> Float[Array, "b t hp wp c"]:
    """Returns the pixels that `fold_pixels` made channels."""
    return rearrange(x, "b t h w (c q p) -> b t (h p) (w q) c", p=patch, q=patch)


def average_down(
    x: Float[Array, "b t h w c"], features: int, frames: int, pixels: int
) -> Float[Array, "b tz hz wz f"]:
    """Averages blocks of `frames` × `pixels` × `pixels` to f channels.

    A block becomes channels, of which each c·frames·pixels² / f neighbours have one
    mean. The first block of a clip ends with frame 0 and is zero before it.
    """
    lead = -x.shape[1] % frames
    x = jnp.pad(x, ((0, 0), (lead, 0), (0, 0), (0, 0), (0, 0)))
    x = rearrange(
        x,
        "b (t a) (h p) (w q) c -> b t h w (c a p q)",
        a=frames,
        p=pixels,
        q=pixels,
    )
    return reduce(x, "b t h w (f g) -> b t h w f", "mean", f=features)


def duplicate_up(
    x: Float[Array, "b t h w c"],
    features: int,
    frames: int,
    pixels: int,
    *,
    first: bool,
) -> Float[Array, "b tp hp wp f"]:
    """Copies channels into blocks of `frames` × `pixels` × `pixels`.

    Each channel is copied f·frames·pixels² / c times. `first` drops the frames that
    would precede frame 0 of the clip.
    """
    copies = features * frames * pixels**2 // x.shape[-1]
    x = repeat(x, "b t h w c -> b t h w (c n)", n=copies)
    x = rearrange(
        x,
        "b t h w (f a p q) -> b (t a) (h p) (w q) f",
        a=frames,
        p=pixels,
        q=pixels,
    )
    return x[:, frames - 1 :] if first else x

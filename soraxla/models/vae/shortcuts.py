"""What Wan 2.2's residual VAE adds to Wan 2.1's layers; none of it has weights.

Each stage that changes the resolution also passes its input around itself, resampled by
moving pixels between space, time and channels only. Frames are grouped as the causal
layers group them: frame 0 alone, then whole groups. So chunks that hold whole groups
need nothing of the chunk before, but for whether there was one.
"""

import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jaxtyping import Float

from soraxla.core.types import Array


def fold_pixels(
    x: Float[Array, "b t hp wp c"], patch: int
) -> Float[Array, "b t h w cpp"]:
    """Patches of pixels to channels: (c, column, row), the row fastest, as Wan 2.2."""
    return rearrange(x, "b t (h p) (w q) c -> b t h w (c q p)", p=patch, q=patch)


def unfold_pixels(
    x: Float[Array, "b t h w cpp"], patch: int
) -> Float[Array, "b t hp wp c"]:
    """The inverse of `fold_pixels`."""
    return rearrange(x, "b t h w (c q p) -> b t (h p) (w q) c", p=patch, q=patch)


def average_down(
    x: Float[Array, "b t h w c"], features: int, frames: int, pixels: int
) -> Float[Array, "b tz hz wz f"]:
    """Blocks of `frames` × `pixels` × `pixels` to channels, then the mean of each
    c·frames·pixels² / f neighbours.

    The first block of a clip ends with frame 0 and is zero before it.
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
    """Each channel f·frames·pixels² / c times, then channels to blocks of `frames` ×
    `pixels` × `pixels`.

    `first` drops what would stand before frame 0 of the clip.
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

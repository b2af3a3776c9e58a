"""Mean and deviation of a VAE's latents, which normalise them for a transformer."""

import jax
from jaxtyping import PyTree


def latent_statistics(
    moments: PyTree,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each latent channel.

    Args:
        moments: {"mean": E[z], "square": E[z²]}, both (C,), as the VAE's training
            averages them.
    """
    mean = jax.device_get(moments["mean"]).astype("float64")
    square = jax.device_get(moments["square"]).astype("float64")
    std = (square - mean**2).clip(1e-12) ** 0.5
    return tuple(mean.tolist()), tuple(std.tolist())

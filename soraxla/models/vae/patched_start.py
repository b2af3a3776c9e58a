"""Principal components as the parameters that a patched VAE starts from."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from soraxla.models.vae.config import VAEConfig
from soraxla.models.vae.linear import components
from soraxla.models.vae.patched import fold_clip
from soraxla.models.vae.shortcuts import fold_pixels

_LEAST = 1e-3  # a component's deviation, as a share of the largest


def patched_start(
    params: PyTree, cfg: VAEConfig, videos: Sequence[Float[np.ndarray, "b t h w 3"]]
) -> PyTree:
    """Returns fresh parameters whose linear layers are principal components.

    Each stage's features are the components of most variance of its folded input, so
    latents are nearly the components of the pixels they cover, of mean 0 and variance
    1. Features are divided by the roots of their deviations, because blocks normalise
    their input and large components would hide small ones.

    Args:
        params: as `init` makes them.
        videos: clips and pictures, pixels in −1…1.
    """
    params = jax.tree.map(np.array, params)  # copies
    encoder, decoder = params["encoder"], params["decoder"]
    x = [
        np.asarray(fold_clip(v, cfg.temporal, cfg.pixel_patch, first=True))
        for v in videos
    ]
    scale, std = np.ones(x[0].shape[-1]), np.ones(0)
    last = len(cfg.multipliers) - 1
    for i, multiplier in enumerate(cfg.multipliers):
        if i:
            x = [np.asarray(fold_pixels(part, 2)) for part in x]
            scale = np.repeat(scale, 4)
        flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in x])
        mean, basis = components(flat, multiplier * cfg.base_width)
        x = [(part - mean) @ basis for part in x]
        std = np.sqrt(np.mean(((flat - mean) @ basis) ** 2, axis=0, dtype=np.float64))
        std = np.maximum(std, _LEAST * std[0])
        down = scale[:, None] * basis / np.sqrt(std)
        up = np.sqrt(std)[:, None] * basis.T / scale
        width = basis.shape[1]
        layer = encoder[f"stage_{i - 1}_down" if i else "conv_in"]
        layer["kernel"][:, :width] = down
        layer["bias"][:width] = -mean @ basis / np.sqrt(std)
        if i:
            layer = decoder[f"stage_{last - i}_up"]
            layer["kernel"][:width] = up
        else:
            layer = decoder["conv_out"]
            layer["kernel"][:] = 0.0
            layer["kernel"][0, 1, 1, :width] = up
        layer["bias"][:] = mean / scale
        scale = np.sqrt(std)
    # The first components of the last stage become the latents, and back.
    z = min(cfg.latent_channels, len(std))
    for layer in (encoder["quant"], decoder["conv_in"]):
        layer["kernel"][:] = 0.0
    np.fill_diagonal(encoder["quant"]["kernel"][0, 0, 0, :z, :z], 1.0 / scale[:z])
    np.fill_diagonal(decoder["conv_in"]["kernel"][:z, :z], scale[:z])
    return jax.tree.map(jnp.asarray, params)

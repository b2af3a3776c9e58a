"""The start of a linear or patched VAE: the principal components of windows."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.core.config import to_dict
from soraxla.core.errors import UserError
from soraxla.models import vae
from soraxla.models.vae.linear import principal_components
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.patched_start import patched_start
from soraxla.parallel.compiler import jit

_BATCHES = 256
_PATCHED_BATCHES = 32


def linear_start(
    model: VAEConfig, batches: Iterable[Mapping[str, np.ndarray]], *, seed: int
) -> LoadedModel:
    """Returns a VAE with its final encoder and a decoder that adds nothing yet.

    Latents are divided by the roots of their deviations, on a common scale, not by the
    deviations. Noise then hides the components that vary most last, so that a
    transformer generates the coarse before the fine.

    Args:
        batches: {"video": uint8 (B, T, H, W, 3)}, of which the first 256 are used.

    Raises:
        UserError: there is no window of more than a frame, or fewer numbers in a
            latent's pixels than latent channels.
    """
    numbers = 3 * model.spatial**2
    if model.latent_channels > numbers:
        raise UserError(
            f"step.model.latent_channels is {model.latent_channels}, expected at most "
            f"{numbers}, the numbers in {model.spatial}x{model.spatial} pixels"
        )
    clips = [
        clip.astype(np.float32) / 127.5 - 1.0
        for batch in islice(batches, _BATCHES)
        for clip in batch["video"]
        if len(clip) > 1
    ]
    if not clips:
        raise UserError(
            "a linear VAE begins from clips, but no window has more than a frame: add "
            "one to windows.shapes"
        )
    down, up = principal_components(
        clips,
        frames=model.temporal,
        side=model.spatial,
        channels=model.latent_channels,
    )
    params = vae.init(jax.random.key(seed), model)
    params["encoder"]["linear"], params["decoder"]["linear"] = down, up
    mean, std = _moments(clips, down, model)
    scale = np.sqrt(std)
    scale *= np.sqrt(np.mean((std / scale) ** 2))  # of a variance of 1 in the mean
    if model.base_width:  # the convolutions begin from normalised latents
        params["decoder"]["post_quant"] = {
            "kernel": jnp.diag(1.0 / scale).astype(jnp.float32)[None, None, None],
            "bias": jnp.asarray(-mean / scale, jnp.float32),
        }
    return _loaded(params, model, mean, scale)


def components_start(
    model: VAEConfig, batches: Iterable[Mapping[str, np.ndarray]], *, seed: int
) -> LoadedModel:
    """Returns a patched VAE that starts from principal components (`patched_start`).

    Args:
        batches: {"video": uint8 (B, T, H, W, 3)}, of which the first 32 are used.
    """
    videos = [
        batch["video"].astype(np.float32) / 127.5 - 1.0
        for batch in islice(batches, _PATCHED_BATCHES)
    ]
    fresh = jit(functools.partial(vae.init, cfg=model))(jax.random.key(seed))
    params = patched_start(fresh, model, videos)
    z = model.latent_channels
    return _loaded(params, model, np.zeros(z), np.ones(z))


def _loaded(
    params: PyTree, model: VAEConfig, mean: np.ndarray, std: np.ndarray
) -> LoadedModel:
    model = dataclasses.replace(
        model, latent_mean=tuple(mean.tolist()), latent_std=tuple(std.tolist())
    )
    config = {"kind": "vae", "model": to_dict(model)}
    return LoadedModel(params=params, model=model, config=config)


def _moments(clips: list[np.ndarray], down: dict, model: VAEConfig):
    """Returns mean and standard deviation of each latent channel, float64."""
    encode = jax.jit(
        lambda video: vae.encode({"encoder": {"linear": down}}, model, video)
    )
    latents = [np.asarray(encode(clip[None])[0], np.float64) for clip in clips]
    flat = np.concatenate([z.reshape(-1, z.shape[-1]) for z in latents])
    return flat.mean(0), flat.std(0)

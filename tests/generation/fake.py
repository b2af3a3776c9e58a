"""Stand-ins for the models, for tests of what is around them: nothing compiles."""

from itertools import islice

import jax
import numpy as np


def sampler(*settings):
    """Stands in for `soraxla.generation.pipeline.sampler`; its noise goes by visit."""

    def run(params, batches, grid, key, condition_t, told=lambda: None):
        for _ in grid.t[1:]:
            told()
        batch, seed = batches[0], int(jax.random.key_data(key)[-1])
        out = np.zeros(batch.latents.shape, np.float32)
        for b, s in np.ndindex(*batch.visit.shape):
            at = batch.segment_ids[b] == s + 1
            rng = np.random.default_rng([int(batch.visit[b, s]), seed])
            out[b, at] = rng.normal(size=(at.sum(), out.shape[-1]))
        return np.where(batch.condition_mask[..., None], batch.latents, out)

    return run


def encode_clip(params, cfg, video):
    """Stands in for the VAE's: the mean colour of every latent's last frame and block.

    The channels after the third repeat the first three.
    """
    _, h, w, _ = video.shape
    colours = np.stack(
        [
            frame.reshape(h // 8, 8, w // 8, 8, 3).mean((1, 3), dtype=np.float32)
            for frame in islice(video, 0, None, 4)
        ]
    )
    return (colours / 127.5 - 1.0)[..., np.arange(cfg.latent_channels) % 3]


def encode_clips(params, cfg, videos):
    """Stands in for the VAE's: clips of one size."""
    return np.stack([encode_clip(params, cfg, video) for video in videos])


def decode_clip(params, cfg, latents):
    """Stands in for the VAE's: every block has one colour, four frames the same."""
    pixels = ((latents[..., :3] + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
    return pixels.repeat(4, axis=0)[3:].repeat(8, axis=1).repeat(8, axis=2)


def decode_stream(params, cfg, latents):
    """Stands in for the VAE's: one latent frame at a time."""
    for place, latent in enumerate(latents):
        frames = decode_clip(params, cfg, np.stack([latent] * 2))  # 1 + 4
        yield frames[1:] if place else frames[:1]


def replace_models(patch):
    """Makes pipelines sample, encode and decode by the functions of this module."""
    patch.setattr("soraxla.generation.pipeline.sampler", sampler)
    replace_vae(patch)


def replace_vae(patch):
    """Makes pipelines encode and decode by the functions of this module."""
    patch.setattr("soraxla.generation.context.encode_clip", encode_clip)
    patch.setattr("soraxla.generation.context.decode_stream", decode_stream)

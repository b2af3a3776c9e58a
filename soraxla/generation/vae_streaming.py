"""Conversion of clips on the host to normalised latents and back, in constant memory.

Clips pass through the VAE's streaming form in chunks of at most `CHUNK` pixels, so a
long video needs no more memory of the device than a short clip of its size. Neither
does the host if the clip is a `LazyVideo`, and `decode_stream` decodes it.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import islice

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, UInt8

from soraxla.media.lazy_video import Video
from soraxla.models import vae
from soraxla.models.vae.model import VAEConfig
from soraxla.parallel.compiler import jit

CHUNK = 9 * 128 * 96  # height · width · latent frames: 33 frames of 128×96


def encode_clip(
    params: PyTree, cfg: VAEConfig, video: Video
) -> Float[np.ndarray, "tz hz wz z"]:
    """Returns the normalised posterior mean, fp32, of 1 + 4k frames.

    The frames are read once, a chunk at a time.

    Raises:
        UserError: the clip has another length, or the VAE does not divide a side.
    """
    return encode_clips(params, cfg, [video])[0]


def encode_clips(
    params: PyTree, cfg: VAEConfig, videos: Sequence[Video]
) -> Float[np.ndarray, "b tz hz wz z"]:
    """Returns the latents of clips of one size, as `encode_clip` does of one.

    The last bits of a clip's latents may depend on the number of clips.
    """
    shape = videos[0].shape
    vae.check_clip(cfg, *shape[:3])
    latents = 1 + (shape[0] - 1) // cfg.temporal
    encode = _jitted(vae.encode_chunk, cfg)
    parts, past, frames = [], None, [iter(video) for video in videos]
    for size in _chunk_sizes(latents, len(videos) * shape[1] * shape[2]):
        count = size * cfg.temporal if parts else 1 + (size - 1) * cfg.temporal
        pixels = np.empty((len(videos), count, *shape[1:]), np.float32)
        for clip, one in zip(pixels, frames, strict=True):
            for place, frame in enumerate(islice(one, count)):
                clip[place] = frame
        pixels /= 127.5
        pixels -= 1.0
        mean, _, past = encode(params, video=pixels, past=past)
        parts.append(np.asarray(vae.normalise(cfg, mean)))
    return np.concatenate(parts, axis=1)


def decode_clip(
    params: PyTree, cfg: VAEConfig, latents: Float[np.ndarray, "tz hz wz z"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns all frames of normalised latents."""
    return np.concatenate(list(decode_stream(params, cfg, latents)))


def decode_stream(
    params: PyTree, cfg: VAEConfig, latents: Float[np.ndarray, "tz hz wz z"]
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Yields the frames of normalised latents, some at a time."""
    decode = _jitted(vae.decode_chunk, cfg)
    past, start = None, 0
    area = latents.shape[1] * latents.shape[2] * cfg.spatial**2
    for size in _chunk_sizes(len(latents), area):
        z = vae.denormalise(cfg, jnp.asarray(latents[None, start : start + size]))
        video, past = decode(params, latents=z, past=past)
        frames = np.empty(video.shape[1:], np.uint8)
        for place, frame in enumerate(np.asarray(video[0])):
            frames[place] = to_uint8(frame)
        yield frames
        start += size


def to_uint8(video: Float[np.ndarray, "*t h w 3"]) -> UInt8[np.ndarray, "*t h w 3"]:
    """Converts pixels in −1…1 to 0…255, rounded."""
    pixels = video + 1.0
    pixels *= 127.5
    return np.round(pixels, out=pixels).clip(0, 255, out=pixels).astype(np.uint8)


def chunk(area: int) -> int:
    """Returns the most latent frames of `area` pixels that are computed at once."""
    return max(1, CHUNK // area)


def _chunk_sizes(latents: int, area: int) -> list[int]:
    """Returns the latent frames of each chunk, nearly equal: few shapes compile."""
    chunks = -(-latents // chunk(area))
    size, larger = divmod(latents, chunks)
    return [size + 1] * larger + [size] * (chunks - larger)


@functools.lru_cache(maxsize=8)
def _jitted(function, cfg: VAEConfig):
    return jit(functools.partial(function, cfg=cfg), convolves=True)


def psnr(a: UInt8[np.ndarray, "t h w 3"], b: UInt8[np.ndarray, "t h w 3"]) -> float:
    """Returns the peak signal-to-noise ratio of two clips of one size, in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10.0 * np.log10(255.0**2 / max(error, 1e-12)))

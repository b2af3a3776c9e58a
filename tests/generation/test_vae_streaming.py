"""Clips to latents and back in chunks, whatever their size, in constant memory."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.generation import vae_streaming
from soraxla.generation.vae_streaming import (
    decode_clip,
    decode_stream,
    encode_clip,
    encode_clips,
    psnr,
    to_uint8,
)
from soraxla.models import vae
from tests import tiny
from tests.tiny import quick

# A stage less than tiny's compiles in three quarters of the time.
VAE = replace(tiny.VAE, multipliers=(1, 1, 2), temporal_down=(True, True))
CHUNK = vae_streaming.CHUNK


@pytest.fixture(scope="module")
def params():
    return tiny.vae_params(VAE)


def clip(frames, height=16, width=24):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Limits chunks to two latent frames of a 16×24 clip."""
    monkeypatch.setattr(vae_streaming, "CHUNK", 2 * 16 * 24)


@pytest.mark.slow
def test_a_clip_encoded_in_chunks_is_the_clip_encoded_whole(params):
    video = clip(17)
    pixels = video[None].astype(np.float32) / 127.5 - 1.0
    mean, _ = quick(lambda v: vae.encode(params, VAE, v))(pixels)
    latents = encode_clip(params, VAE, video)
    assert latents.shape == (5, 4, 6, 4) and latents.dtype == np.float32
    expected = vae.normalise(VAE, mean)[0]
    np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_clips_encoded_together_are_those_encoded_one_by_one(params):
    videos = np.stack([clip(9), 255 - clip(9), clip(9)[:, ::-1]])
    together = encode_clips(params, VAE, videos)
    expected = [encode_clip(params, VAE, video) for video in videos]
    np.testing.assert_allclose(together, np.stack(expected), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_481_frames_decoded_in_chunks_are_decoded_whole(params):
    z = np.random.default_rng(0).normal(size=(121, 2, 2, 4)).astype(np.float32)
    parts = list(decode_stream(params, VAE, z))
    assert [len(part) for part in parts] == [41] + [44] * 10
    raw = vae.denormalise(VAE, z[None])
    whole = to_uint8(np.asarray(quick(lambda z: vae.decode(params, VAE, z))(raw)[0]))
    streamed = decode_clip(params, VAE, z)
    assert streamed.shape == (481, 8, 8, 3) and streamed.dtype == np.uint8
    # A value at the edge of two whole numbers may round either way.
    assert np.abs(streamed.astype(int) - whole).max() <= 1
    assert (streamed == whole).mean() > 0.999


@pytest.mark.slow
def test_481_frames_need_little_more_memory_than_33(params, monkeypatch):
    """At 128x96, by what XLA says of every program that runs."""
    monkeypatch.setattr(vae_streaming, "CHUNK", CHUNK)
    decode = functools.partial(vae.decode_chunk, cfg=VAE)

    def peak(latents):
        sizes = vae_streaming._chunk_sizes(latents, 96 * 128)
        first = shapes(sizes[0])
        _, past = jax.eval_shape(
            lambda p, z: decode(p, latents=z, past=None), params, first
        )
        needs = [memory(first, None)]
        if len(sizes) > 1:
            needs.append(memory(shapes(max(sizes[1:])), past))
        return max(needs)

    def shapes(size):
        return jax.ShapeDtypeStruct((1, size, 24, 32, 4), jnp.float32)

    def memory(z, past):
        program = quick(lambda p, z, past: decode(p, latents=z, past=past))
        used = program.lower(params, z, past).compile().memory_analysis()
        return (
            used.argument_size_in_bytes
            + used.output_size_in_bytes
            + used.temp_size_in_bytes
        )

    assert peak(121) <= 1.5 * peak(9)


@pytest.mark.parametrize("shape", [(4, 16, 16), (5, 14, 16), (5, 16, 18)])
def test_sizes_that_would_lose_pixels_are_refused(params, shape):
    with pytest.raises(ValueError, match=r"1 \+ 4k frames.*crop it first") as error:
        encode_clip(params, VAE, clip(*shape))
    assert "\n" not in str(error.value)


def test_chunks_are_even_and_within_the_limit():
    for latents in range(1, 40):
        for area in (64, 192, 384, 768, 3200):
            sizes = vae_streaming._chunk_sizes(latents, area)
            assert sum(sizes) == latents and min(sizes) >= 1
            assert max(sizes) <= max(1, vae_streaming.CHUNK // area)
            assert max(sizes) - min(sizes) <= 1


def test_pixels_are_rounded_to_the_nearest_and_clipped():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    there = every.astype(np.float32) / 127.5 - 1.0
    np.testing.assert_array_equal(to_uint8(there), every)
    np.testing.assert_array_equal(to_uint8(there + np.float32(0.003)), every)
    beyond = np.float32([-3.0, 3.0, 0.0]).reshape(1, 1, 1, 3)
    assert to_uint8(beyond).ravel().tolist() == [0, 255, 128]


def test_psnr_is_in_decibels():
    black = np.zeros((1, 2, 2, 3), np.uint8)
    assert psnr(black, black + np.uint8(255)) == pytest.approx(0.0)
    assert psnr(black, black + np.uint8(1)) == pytest.approx(48.1308, abs=1e-3)
    assert psnr(black, black) > 100

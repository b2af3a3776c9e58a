"""Wan 2.2's additions to the VAE: shortcuts that only move pixels, and folding."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.models import vae
from soraxla.models.vae.shortcuts import (
    average_down,
    duplicate_up,
    fold_pixels,
    unfold_pixels,
)
from tests.marks import slow
from tests.tiny import quick, vae_params

CFG = vae.VAEConfig(
    base_width=4,
    decoder_width=6,
    latent_channels=3,
    multipliers=(1, 2, 2),
    temporal_down=(False, True),
    res_blocks=1,
    residual=True,
    pixel_patch=2,
    dtype="float32",
)

# A quarter of the time to compile.
SMALL = replace(CFG, multipliers=(1, 1), temporal_down=(True,))


@pytest.fixture(scope="module")
def params():
    return vae_params(CFG)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_pixels_are_folded_column_before_row_and_back():
    x = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32).reshape(1, 1, 2, 2, 1)
    assert fold_pixels(x, 2).ravel().tolist() == [0, 2, 1, 3]
    x = normal(2, 3, 4, 6, 3)
    folded = fold_pixels(x, 2)
    assert folded.shape == (2, 3, 2, 3, 12)
    np.testing.assert_array_equal(folded[..., 4:8], fold_pixels(x[..., 1:2], 2))
    np.testing.assert_array_equal(unfold_pixels(folded, 2), x)


@pytest.mark.parametrize(
    ("features", "frames", "pixels"), [(4, 1, 2), (8, 2, 2), (4, 2, 2), (2, 1, 1)]
)
def test_the_way_down_is_a_mean_of_neighbours(features, frames, pixels):
    x = normal(1, 5, 4, 6, 4)
    padded = np.concatenate([np.zeros_like(x[:, : -5 % frames]), x], axis=1)
    b, t, h, w, c = padded.shape
    group = c * frames * pixels**2 // features
    expected = np.zeros(
        (b, t // frames, h // pixels, w // pixels, features), np.float32
    )
    for place in np.ndindex(*expected.shape[1:4]):
        block = padded[
            0,
            place[0] * frames : (place[0] + 1) * frames,
            place[1] * pixels : (place[1] + 1) * pixels,
            place[2] * pixels : (place[2] + 1) * pixels,
        ]
        line = np.moveaxis(block, -1, 0).ravel()  # channel, frame, row, column
        expected[(0, *place)] = line.reshape(features, group).mean(axis=1)
    result = average_down(x, features, frames, pixels)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("features", "frames", "pixels"), [(4, 1, 2), (4, 2, 2), (2, 2, 2), (2, 1, 2)]
)
def test_the_way_up_is_copies_of_a_position(features, frames, pixels, first):
    x = normal(1, 3, 2, 3, 4)
    copies = features * frames * pixels**2 // 4
    _, t, h, w, _ = x.shape
    expected = np.zeros((1, t * frames, h * pixels, w * pixels, features), np.float32)
    for place in np.ndindex(*expected.shape[1:4]):
        at = (place[0] // frames, place[1] // pixels, place[2] // pixels)
        a, p, q = place[0] % frames, place[1] % pixels, place[2] % pixels
        for f in range(features):
            number = ((f * frames + a) * pixels + p) * pixels + q
            expected[(0, *place, f)] = x[(0, *at, number // copies)]
    result = duplicate_up(x, features, frames, pixels, first=first)
    dropped = frames - 1 if first else 0
    np.testing.assert_array_equal(result, expected[:, dropped:])


def test_sizes_are_those_of_the_folded_pixels(params):
    assert (CFG.spatial, CFG.temporal) == (8, 2)
    video = jnp.zeros((1, 5, 16, 24, 3))
    mean, _ = jax.eval_shape(lambda v: vae.encode(params, CFG, v), video)
    assert mean.shape == (1, 3, 2, 3, 3)
    back = jax.eval_shape(lambda z: vae.decode(params, CFG, z), mean)
    assert back.shape == video.shape
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode(params, CFG, video[:, :, :12])


@functools.cache
def chunks(cfg):
    """Encodes and decodes a chunk."""
    return [
        functools.partial(quick(functools.partial(f, cfg=cfg)), vae_params(cfg))
        for f in (vae.encode_chunk, vae.decode_chunk)
    ]


@pytest.mark.slow
def test_the_past_alone_is_seen_and_all_of_it():
    """A change of a frame moves later results, and no bit of earlier ones."""
    encode, decode = chunks(SMALL)

    def seen(function, x):
        base = function(x)
        for frame in range(x.shape[1]):
            other = x.copy()
            other[:, frame] *= -1
            yield np.any(function(other) != base, axis=(0, 2, 3, 4)).tolist()

    frames, latents = normal(1, 5, 8, 8, 3), normal(1, 3, 2, 2, 3)
    assert list(seen(lambda x: encode(video=x, past=None)[0], frames)) == [
        [True, True, True],
        *[[False, True, True]] * 2,
        *[[False, False, True]] * 2,
    ]
    of_latents = list(seen(lambda x: decode(latents=x, past=None)[0], latents))
    assert of_latents == [[True] * 5, [False] + [True] * 4, [False] * 3 + [True] * 2]


@pytest.mark.parametrize(
    ("cfg", "sizes"), slow((SMALL, (1, 2, 2)), (CFG, (1, 2, 6)), (CFG, (5, 4)))
)
def test_a_streamed_clip_is_the_whole_one(cfg, sizes):
    """Nothing more is remembered than without shortcuts, whatever came before."""
    encode, decode = chunks(cfg)
    clip = normal(1, sum(sizes), 8, 8, 3)
    mean, _, _ = encode(video=clip, past=None)
    video, _ = decode(latents=mean, past=None)
    means, videos, start, past, later = [], [], 0, None, None
    shapes = set()
    for size in sizes:
        part, _, past = encode(video=clip[:, start : start + size], past=past)
        out, later = decode(latents=part, past=later)
        means.append(part)
        videos.append(out)
        start += size
        shapes.add(tuple(a.shape for a in (*past, *later)))
    np.testing.assert_allclose(np.concatenate(means, 1), mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(videos, 1), video, rtol=0, atol=2e-5)
    assert len(shapes) == 1


@pytest.mark.slow
def test_fresh_weights_learn_everywhere_after_one_step():
    start = quick(lambda: vae.init(jax.random.key(0, impl="rbg"), SMALL))()
    noise = np.random.default_rng(1).normal(size=(1, 3, 2, 4, 3)).astype(np.float32)
    clip = normal(1, 5, 8, 16, 3)

    def loss(params):
        mean, logvar = vae.encode(params, SMALL, clip)
        z = mean + jnp.exp(0.5 * logvar) * noise
        return jnp.mean((vae.decode_unclipped(params, SMALL, z) - clip) ** 2)

    grad = quick(jax.grad(loss))
    later = jax.tree.map(lambda p, g: p - 0.1 * g, start, grad(start))
    dead = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(grad(later))
        if not np.any(g)
    ]
    assert dead == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"multipliers": (1, 3, 4)}, "shortcuts"),
        ({"multipliers": (16, 1, 3)}, "shortcuts"),
        ({"decoder_width": 0}, "decoder_width is 0"),
        ({"pixel_patch": 0}, "pixel_patch is 0"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f"VAE .*{message}") as error:
        replace(CFG, **wrong)
    assert "\n" not in str(error.value)

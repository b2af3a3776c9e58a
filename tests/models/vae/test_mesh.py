"""The VAE cut by height: the same numbers, rows of neighbours fetched, little else."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from soraxla.models import vae
from soraxla.models.vae.layers import by_height, convolve
from soraxla.parallel.collectives import collectives
from soraxla.parallel.mesh import MeshConfig, make_mesh
from tests import tiny

# Halves height and time once, where the default does three times and twice.
SMALL = replace(tiny.VAE, multipliers=(1, 2), temporal_down=(True,))


def encode(cfg, params, video):
    return vae.encode(params, cfg, video)[0]


def decode(cfg, params, latents):
    return vae.decode_chunk(params, cfg, latents, None)[0]


def random_latents(rng, cfg, height):
    return rng.normal(size=(1, 3, height, 6, 4)).astype(np.float32)


def random_video(rng, cfg, height):
    shape = (1, 1 + 2 * cfg.temporal, cfg.spatial * height, cfg.spatial * 6, 3)
    return rng.uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "draw", "videos", "height", "cfg"),  # in latents, on four devices
    [
        (decode, random_latents, 1, 8, SMALL),
        (decode, random_latents, 1, 8, tiny.VAE),
        (encode, random_video, 0, 8, tiny.VAE),
        (decode, random_latents, 1, 11, tiny.VAE),
        (encode, random_video, 0, 11, tiny.VAE),
    ],
)
def test_cut_by_height_is_whole(function, draw, videos, height, cfg):
    """Compiled as users do: without vectors, sums are less exact."""
    rng, params = np.random.default_rng(0), tiny.vae_params(cfg)
    x, video = draw(rng, cfg, height), random_video(rng, cfg, height)
    function = functools.partial(function, cfg)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, context=4))):
        program = tiny.optimised(function).lower(params, x).compile()
        cut = program(params, x)
    assert np.abs(cut - tiny.optimised(function)(params, x)).max() <= 2e-5
    if height % 4 == 0:
        # What is gathered: keys and values of the middle's attention, and the video.
        sent = collectives(program.as_text())
        assert {c.kind for c in sent} == {"collective-permute", "all-gather"}
        gathered = {c.shape: c.calls for c in sent if c.kind == "all-gather"}
        whole = ",".join(map(str, video.shape))
        assert gathered.pop(f"f32[{whole}]", 0) == videos
        assert list(gathered.values()) == [2]


def test_a_convolution_of_one_row_a_device_is_whole():
    """XLA's is wrong for two rows and two clips, both of them cut."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 2, 2, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 2, 2)).astype(np.float32)
    bias = np.zeros(2, np.float32)

    def convolved(x):
        return convolve(by_height(x), kernel, bias, ((0, 0), (1, 1), (1, 1)), "float32")

    expected = tiny.quick(convolved)(x)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, context=2), jax.devices()[:4])):
        found = tiny.quick(convolved)(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

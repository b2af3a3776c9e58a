"""The VAE cut by height: the same numbers, rows of neighbours fetched, little else."""

import jax
import numpy as np
import pytest

from soraxla.models import vae
from soraxla.parallel.collectives import collectives
from soraxla.parallel.mesh import MeshConfig, make_mesh
from tests import tiny
from tests.marks import slow


def encode(params, video):
    return vae.encode(params, tiny.VAE, video)[0]


def decode(params, latents):
    return vae.decode_chunk(params, tiny.VAE, latents, None)[0]


@pytest.fixture(scope="module")
def params():
    return tiny.vae_params()


def random_latents(rng, height):
    return rng.normal(size=(1, 3, height, 6, 4)).astype(np.float32)


def random_video(rng, height):
    return rng.uniform(-1, 1, (1, 9, 8 * height, 48, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "draw", "videos", "height"),  # in latents, on four devices
    [
        (decode, random_latents, 1, 8),
        *slow(
            (encode, random_video, 0, 8),
            (decode, random_latents, 1, 11),
            (encode, random_video, 0, 11),
        ),
    ],
)
def test_cut_by_height_is_whole(params, function, draw, videos, height):
    """Compiled as users do: without vectors, sums are less exact."""
    x = draw(np.random.default_rng(0), height)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, context=4))):
        program = tiny.optimised(function).lower(params, x).compile()
        cut = program(params, x)
    assert np.abs(cut - tiny.optimised(function)(params, x)).max() <= 2e-5
    if height % 4 == 0:
        # What is gathered: keys and values of the middle's attention, and the video.
        sent = collectives(program.as_text())
        assert {c.kind for c in sent} == {"collective-permute", "all-gather"}
        gathered = {c.shape: c.calls for c in sent if c.kind == "all-gather"}
        assert gathered.pop("f32[1,9,64,48,3]", 0) == videos
        assert list(gathered.values()) == [2]

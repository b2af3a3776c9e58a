"""The VAE cut by height: the same numbers, rows of neighbours fetched, little else."""

import functools

import jax
import numpy as np
import pytest

from soraxla.models import vae
from soraxla.parallel.collectives import collectives
from soraxla.parallel.compiler import jit
from soraxla.parallel.mesh import MeshConfig, make_mesh
from tests import tiny


def encode(params, video):
    return vae.encode(params, tiny.VAE, video)[0]


decode = functools.partial(vae.decode_chunk, cfg=tiny.VAE, past=None)

# The tests compile without LLVM's optimisations, and then the decoder rounds more.
OPTIMISED = {
    "xla_backend_optimization_level": 2,
    "xla_llvm_disable_expensive_passes": False,
}


def compiled(function, *args, **kwargs):
    return jit(function).lower(*args, **kwargs).compile(compiler_options=OPTIMISED)


@pytest.fixture(scope="module")
def params():
    return tiny.vae_params()


@pytest.mark.parametrize("height", [8, 11])  # in latents, on four devices
def test_cut_by_height_is_whole(params, height):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1, 3, height, 6, 4)).astype(np.float32)
    video = rng.uniform(-1, 1, (1, 9, 8 * height, 48, 3)).astype(np.float32)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, context=4))):
        encoder = compiled(encode, params, video)
        decoder = compiled(decode, params, latents=latents)
        frames, _ = decoder(params, latents=latents)
        moments = encoder(params, video)
    whole_frames, _ = compiled(decode, params, latents=latents)(params, latents=latents)
    whole_moments = compiled(encode, params, video)(params, video)
    for cut, whole in ((frames, whole_frames), (moments, whole_moments)):
        assert np.abs(cut - whole).max() <= 2e-5
    if height % 4 == 0:
        # What is gathered: keys and values of the middle's attention, and the video.
        for program, whole in ((encoder, 0), (decoder, 1)):
            sent = collectives(program.as_text())
            assert {c.kind for c in sent} == {"collective-permute", "all-gather"}
            gathered = {c.shape: c.calls for c in sent if c.kind == "all-gather"}
            assert gathered.pop("f32[1,9,64,48,3]", 0) == whole
            assert list(gathered.values()) == [2]

"""A VAE of patches: shapes, causality, streaming, and its start from components."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.config import build, to_dict
from soraxla.core.trees import named_leaves
from soraxla.models import vae
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.patched import fold_clip, unfold_clip
from soraxla.training.linear_start import components_start
from soraxla.training.optim import OptimConfig, optimizer
from tests.marks import slow
from tests.tiny import quick, vae_params

CFG = VAEConfig(
    base_width=4,
    latent_channels=3,
    multipliers=(1, 2),
    res_blocks=(1, 0),
    temporal_down=(False,),
    pixel_patch=2,
    frame_patch=4,
    dtype="float32",
)


@pytest.fixture(scope="module")
def params():
    return vae_params(CFG)


@pytest.fixture(scope="module")
def encode(params):
    return quick(lambda video: vae.encode(params, CFG, video))


@pytest.fixture(scope="module")
def decode(params):
    return quick(lambda latents: vae.decode_unclipped(params, CFG, latents))


def video(frames, height=8, width=12, seed=0):
    shape = (1, frames, height, width, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def latents(frames, height=2, width=3, seed=0):
    shape = (1, frames, height, width, CFG.latent_channels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Shapes and causality ---------------------------------------------------------


@pytest.mark.parametrize("frames", [17, *slow(1, 5)])
def test_a_clip_has_a_latent_for_frame_0_and_one_every_four_frames(params, frames):
    def there_and_back(video):
        mean, logvar = vae.encode(params, CFG, video)
        return mean, logvar, vae.decode(params, CFG, mean)

    shape = (2, frames, 8, 12, 3)
    mean, logvar, back = jax.eval_shape(there_and_back, jnp.zeros(shape))
    assert mean.shape == logvar.shape == (2, 1 + (frames - 1) // 4, 2, 3, 3)
    assert back.shape == shape
    assert mean.dtype == back.dtype == jnp.float32


@pytest.mark.parametrize("first", [True, False])
def test_patches_unfold_to_what_was_folded(first):
    x = video(5 if first else 8)
    patches = fold_clip(x, 4, 2, first=first)
    assert patches.shape == (1, 2, 4, 6, 4 * 2 * 2 * 3)
    np.testing.assert_array_equal(unfold_clip(patches, 4, 2, first=first), x)


@pytest.mark.parametrize("frame", [1, 5, 8])
def test_a_latent_sees_no_later_frame(encode, frame):
    clip = video(9)
    changed = clip.copy()
    changed[:, frame] = video(9, seed=1)[:, frame]
    before = 1 + (frame - 1) // 4
    for whole, other in zip(encode(clip), encode(changed), strict=True):
        np.testing.assert_array_equal(whole[:, :before], other[:, :before])
        assert (whole[:, before] != other[:, before]).any()


def test_latents_see_the_frames_before_their_own(encode):
    changed = video(9)
    changed[:, 0] *= -1
    differs = encode(video(9))[0] != encode(changed)[0]
    # Its one block looks one latent frame back.
    assert differs.any(axis=(0, 2, 3, 4)).tolist() == [True, True, False]


@pytest.mark.parametrize("latent", [1, 2])
def test_frames_see_no_later_latent(decode, latent):
    z = latents(3)
    changed = z.copy()
    changed[:, latent] = latents(3, seed=1)[:, latent]
    whole, other = decode(z), decode(changed)
    first = 4 * latent - 3  # the first frame this latent stands for
    np.testing.assert_array_equal(whole[:, :first], other[:, :first])
    assert (whole[:, first] != other[:, first]).any()


# --- Streaming --------------------------------------------------------------------


def streamed(chunk_fn, params, x, sizes):
    """Joins the results of chunks of these many frames."""
    step = quick(functools.partial(chunk_fn, params, CFG))
    parts, past, start = [], None, 0
    for size in sizes:
        *out, past = step(x[:, start : start + size], past)
        parts.append(out)
        start += size
    assert start == x.shape[1]
    return [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("sizes", [(1, 4, 8), *slow(((9, 4),))])
def test_a_streamed_encoding_is_the_whole_one(params, encode, sizes):
    clip = video(13)
    parts = streamed(vae.encode_chunk, params, clip, sizes)
    for whole, part in zip(encode(clip), parts, strict=True):
        np.testing.assert_allclose(part, whole, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1, 2), (3, 1)])
def test_a_streamed_decoding_is_the_whole_one(params, decode, sizes):
    z = latents(4)
    (part,) = streamed(vae.decode_chunk, params, z, sizes)
    whole = np.clip(decode(z), -1, 1)
    assert np.abs(whole).mean() > 0.1
    np.testing.assert_allclose(part, whole, rtol=0, atol=1e-5)


def test_a_picture_is_the_first_frame_of_a_clip(encode, decode):
    clip, z = video(13), latents(4)
    for whole, part in zip(encode(clip), encode(clip[:, :1]), strict=True):
        np.testing.assert_allclose(whole[:, :1], part, rtol=0, atol=2e-6)
    np.testing.assert_allclose(decode(z)[:, :1], decode(z[:, :1]), rtol=0, atol=1e-5)


# --- Configuration ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"res_blocks": (1,)},
        {"frame_patch": 0},
        {"temporal_down": (True,)},
        {"residual": True},
        {"linear": True},
        {"frame_patch": None, "res_blocks": (1, 0)},
        {"decoder_width": 8},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(wrong):
    with pytest.raises(ValueError, match=f"VAE .*{next(reversed(wrong))}.*expected"):
        dataclasses.replace(CFG, **wrong)


def test_a_configuration_written_before_there_were_patches_means_the_same():
    assert build(VAEConfig, json.loads(json.dumps(to_dict(CFG)))) == CFG
    old = to_dict(VAEConfig())
    assert "frame_patch" not in old
    assert build(VAEConfig, old) == VAEConfig() and not VAEConfig().patched


# --- Start and training -----------------------------------------------------------


def moving(seed, frames=5, side=16):
    """A sum of few waves, so that few components say nearly all."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(*(np.arange(n) for n in (frames, side, side)), indexing="ij")
    phase = 0.3 * x + 0.2 * y + 0.4 * t * rng.uniform(0, 1) + rng.uniform(0, 6)
    clip = np.sin(phase)[..., None] * rng.uniform(0.2, 0.8, 3)
    return np.round((clip + 1) * 127.5).astype(np.uint8)


WIDE = dataclasses.replace(CFG, base_width=12, latent_channels=8)
BATCHES = [{"video": np.stack([moving(4 * j + i) for i in range(4)])} for j in range(4)]


@pytest.fixture(scope="module")
def start():
    return components_start(WIDE, BATCHES, seed=0)


@pytest.mark.slow
def test_a_start_is_as_good_as_the_components_of_its_latents_pixels(start):
    x = np.concatenate([b["video"] for b in BATCHES]) / np.float32(127.5) - 1

    @quick
    def there_and_back(params, x):
        mean, logvar = vae.encode(params, WIDE, x)
        return mean, logvar, vae.decode_unclipped(params, WIDE, mean)

    z, logvar, back = there_and_back(start.params, x)
    np.testing.assert_allclose(np.mean(z, axis=(0, 1, 2, 3)), 0.0, atol=1e-3)
    np.testing.assert_allclose(np.std(z, axis=(0, 1, 2, 3)), 1.0, rtol=1e-2)
    np.testing.assert_array_equal(logvar, -8.0)
    blocks = np.asarray(fold_clip(x, 4, 4, first=True)).reshape(-1, 4 * 4 * 4 * 3)
    singular = np.linalg.svd(blocks - blocks.mean(0), compute_uv=False)
    least = float((singular[8:] ** 2).sum() / (singular**2).sum())
    share = float(np.mean((x - back) ** 2) / np.var(x))
    assert least < 0.05 and share < 2 * least + 1e-3


@pytest.mark.slow
def test_the_start_learns_everywhere_after_one_step(start):
    """Blocks start as the identity and shut their own gradient, for one step only."""
    clip = BATCHES[0]["video"][:1] / np.float32(127.5) - 1

    @quick
    def value_and_grad(params):
        def loss(params):
            mean, logvar = vae.encode(params, WIDE, clip)
            z = mean + jnp.exp(0.5 * logvar) * noise
            l1 = jnp.mean(jnp.abs(vae.decode_unclipped(params, WIDE, z) - clip))
            return l1 + 1e-3 * jnp.mean(mean**2 + jnp.exp(logvar) - logvar)

        return jax.value_and_grad(loss)(params)

    noise = np.random.default_rng(0).normal(size=(1, 2, 4, 4, 8)).astype(np.float32)
    before, first = value_and_grad(start.params)
    params = jax.tree.map(lambda p, g: p - 1e-3 * g, start.params, first)
    after, grads = value_and_grad(params)
    assert after < before
    dead = [name for name, g in named_leaves(grads).items() if not jnp.any(g)]
    assert dead == []


def test_muon_moves_all_directions_of_a_block_kernel_alike():
    """Its first step is a multiple of an orthogonal matrix of all taps and inputs."""
    optim = OptimConfig(learning_rate=1e-3, muon_learning_rate=1e-2, warmup_steps=1)
    rng = np.random.default_rng(0)
    encoder = vae_params(WIDE)["encoder"]
    params = {"encoder": {name: encoder[name] for name in ("conv_in", "stage_0_res_0")}}
    grads = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params
    )
    tx = optimizer(optim)

    updates = quick(lambda: tx.update(grads, tx.init(params), params)[0])()
    block = updates["encoder"]["stage_0_res_0"]
    for kernel in (block["conv1"]["kernel"], block["time"]["kernel"]):
        matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1])
        singular = np.linalg.svd(matrix, compute_uv=False)
        assert singular[0] / singular[-1] < 2.0
        rms = np.sqrt(np.mean(matrix**2))
        assert rms == pytest.approx(0.2 * 1e-2, rel=0.3)
    other = np.abs(np.asarray(updates["encoder"]["conv_in"]["kernel"]))
    np.testing.assert_allclose(other, 1e-3, rtol=1e-2)  # AdamW's first step

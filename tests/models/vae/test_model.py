"""The causal VAE: shapes, causality, streaming, and Wan's layers written in full."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.trees import named_leaves, nested
from soraxla.models import vae
from soraxla.models.vae.layers import FrameAttention, HalvingConv, Norm, TimeConv
from tests.marks import slow
from tests.tiny import quick, random_like, vae_params

CFG = vae.VAEConfig(
    base_width=4,
    latent_channels=3,
    res_blocks=1,
    latent_mean=(0.5, -1.0, 2.0),
    latent_std=(0.5, 2.0, 1.5),
    dtype="float32",
)


# Every layer there is, at half the time to compile.
SMALL = replace(CFG, multipliers=(1, 2), temporal_down=(True,))


@pytest.fixture(scope="module")
def params():
    return vae_params(CFG)


@pytest.fixture(scope="module")
def small():
    return vae_params(SMALL)


@functools.cache
def encode_with(cfg):
    return quick(lambda params, video: vae.encode(params, cfg, video))


@pytest.fixture(scope="module")
def encode(params):
    return quick(lambda video: vae.encode(params, CFG, video))


@pytest.fixture(scope="module")
def decode(params):
    return quick(lambda latents: vae.decode_unclipped(params, CFG, latents))


def video(frames, height=16, width=24, seed=0):
    shape = (1, frames, height, width, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def latents(frames, height=2, width=3, seed=0):
    shape = (1, frames, height, width, CFG.latent_channels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Shapes -----------------------------------------------------------------------


@pytest.mark.parametrize("frames", [17, *slow(1, 5)])
def test_a_clip_has_a_latent_for_frame_0_and_one_every_four_frames(params, frames):
    def there_and_back(video):
        mean, logvar = vae.encode(params, CFG, video)
        return mean, logvar, vae.decode(params, CFG, mean)

    shape = (2, frames, 16, 24, 3)
    mean, logvar, back = jax.eval_shape(there_and_back, jnp.zeros(shape))
    assert mean.shape == logvar.shape == (2, 1 + (frames - 1) // 4, 2, 3, 3)
    assert back.shape == shape
    assert mean.dtype == back.dtype == jnp.float32


@pytest.mark.parametrize("size", [(2, 16, 16), (4, 16, 16), (5, 12, 16), (5, 16, 20)])
def test_sizes_that_do_not_fit_are_refused(params, size):
    with pytest.raises(ValueError, match=r"1 \+ 4k frames.*crop") as error:
        vae.encode(params, CFG, jnp.zeros((1, *size, 3)))
    assert "\n" not in str(error.value)


def test_log_variances_are_clipped(small):
    named = named_leaves(small)
    bias = next(k for k in named if k.startswith("encoder.quant") and "bias" in k)
    named[bias] = jnp.asarray([0.0, 0.0, 0.0, -100.0, 100.0, 0.0])
    loud = nested(named)
    _, logvar = encode_with(SMALL)(loud, video(1))
    assert (logvar[..., 0] == -30).all() and (logvar[..., 1] == 20).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temporal_down": (True,)},
        {"latent_mean": (0.0,)},
        {"latent_std": (1.0,) * 4},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(wrong):
    with pytest.raises(ValueError, match=f"VAE .*{next(iter(wrong))}.*expected"):
        replace(CFG, **wrong)


# --- Causality --------------------------------------------------------------------


@pytest.mark.parametrize("frame", [1, 5, 8])
def test_a_latent_sees_no_later_frame(encode, frame):
    """Latent τ covers frames up to 4τ; the ones before are the same bit for bit."""
    clip = video(9)
    changed = clip.copy()
    changed[:, frame] = video(9, seed=1)[:, frame]
    before = 1 + (frame - 1) // 4
    for whole, other in zip(encode(clip), encode(changed), strict=True):
        np.testing.assert_array_equal(whole[:, :before], other[:, :before])
        assert (whole[:, before] != other[:, before]).any()


def test_frame_0_alone_makes_latent_0_and_every_latent_sees_it(encode):
    changed = video(9)
    changed[:, 0] *= -1
    whole, other = encode(video(9))[0], encode(changed)[0]
    assert (whole != other).any(axis=(0, 2, 3, 4)).all()


@pytest.mark.parametrize("j", [0, *slow(1)])
def test_the_encoding_of_a_beginning_is_the_beginning_of_the_encoding(small, j):
    both = (encode_with(SMALL)(small, video(9)[:, :n]) for n in (9, 1 + 2 * j))
    for whole, part in zip(*both, strict=True):
        np.testing.assert_allclose(whole[:, : 1 + j], part, rtol=0, atol=2e-6)


@pytest.mark.parametrize("latent", [1, 2])
def test_frames_see_no_later_latent(decode, latent):
    z = latents(3)
    changed = z.copy()
    changed[:, latent] = latents(3, seed=1)[:, latent]
    whole, other = decode(z), decode(changed)
    first = 4 * latent - 3  # the first frame this latent stands for
    np.testing.assert_array_equal(whole[:, :first], other[:, :first])
    assert (whole[:, first] != other[:, first]).any()


@pytest.mark.slow
def test_no_gradient_flows_back_in_time(small):
    """Exactly 0 from a latent to later frames, and from a frame to later latents."""

    def of_encoder(video):
        mean, logvar = vae.encode(small, SMALL, video)
        return jnp.sum((mean + logvar)[:, 1])

    grad = quick(jax.grad(of_encoder))(video(5))
    assert (grad[:, 3:] == 0).all()
    assert (grad[:, :3] != 0).any(axis=(0, 2, 3, 4)).all()

    def of_decoder(z):
        return jnp.sum(vae.decode_unclipped(small, SMALL, z)[:, 2])

    grad = quick(jax.grad(of_decoder))(latents(3))
    assert (grad[:, 2:] == 0).all()
    assert (grad[:, :2] != 0).any(axis=(0, 2, 3, 4)).all()


# --- Streaming --------------------------------------------------------------------


def streamed(chunk_fn, x, sizes):
    """Joins the results of chunks of these many frames.

    Memory is constant: a chunk leaves as much as any other, whatever came before.
    """
    step = quick(chunk_fn)
    parts, past, start, left = [], None, 0, set()
    for size in sizes:
        *out, past = step(x[:, start : start + size], past)
        left.add(tuple(a.shape for a in past))
        parts.append(out)
        start += size
    assert start == x.shape[1] and len(left) == 1
    return [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    ("cfg", "sizes"),
    [
        *slow(
            (SMALL, (1, 2, 4, 2)),
            (CFG, (1, 4, 8, 4)),
            (CFG, (1, 16)),
            (CFG, (9, 8)),
        ),
    ],
)
def test_a_streamed_encoding_is_the_whole_one(cfg, sizes):
    params, clip = vae_params(cfg), video(sum(sizes))
    whole = encode_with(cfg)(params, clip)
    parts = streamed(functools.partial(vae.encode_chunk, params, cfg), clip, sizes)
    for one, part in zip(whole, parts, strict=True):
        np.testing.assert_allclose(part, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("cfg", "sizes"),
    [
        (SMALL, (1, 2, 2)),
        *slow((CFG, (1, 2, 2)), (CFG, (1, 1, 1, 1, 1)), (CFG, (3, 2))),
    ],
)
def test_a_streamed_decoding_is_the_whole_one(cfg, sizes):
    params, z = vae_params(cfg), latents(sum(sizes))
    whole = quick(lambda z: vae.decode(params, cfg, z))(z)
    assert np.abs(whole).mean() > 0.1
    (part,) = streamed(functools.partial(vae.decode_chunk, params, cfg), z, sizes)
    np.testing.assert_allclose(part, whole, rtol=0, atol=1e-5)


def test_chunks_that_would_lose_frames_are_refused(params):
    """A later chunk of 3 frames has no place in the 4-to-1 grid."""
    clip = video(9)
    step = functools.partial(vae.encode_chunk, params, CFG)
    *_, past = jax.eval_shape(step, clip[:, :5], None)
    with pytest.raises(ValueError, match="4k"):
        jax.eval_shape(step, clip[:, 5:8], past)
    with pytest.raises(ValueError, match="4k"):
        jax.eval_shape(step, clip[:, :4], None)


# --- Layers -----------------------------------------------------------------------


def conv_nd(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        precision="highest",
    )


def with_vae_params(module, x):
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    return random_like(tree, seed=3)


@pytest.mark.parametrize("size", [(8, 12), (2, 2), (6, 10)])
def test_the_halving_convolution_is_a_strided_one_padded_right_and_bottom(size):
    x = np.random.default_rng(0).normal(size=(2, 3, *size, 4)).astype(np.float32)
    module = HalvingConv("float32")
    variables = with_vae_params(module, x)
    kernel, bias = (variables["params"][k] for k in ("kernel", "bias"))
    expected = conv_nd(x, kernel, (1, 2, 2), [(0, 0), (0, 1), (0, 1)])
    expected = expected + bias.reshape(1, 1, 1, 1, -1)
    result = module.apply(variables, x)
    assert result.shape == (2, 3, size[0] // 2, size[1] // 2, 4)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_time_convolution_is_a_convolution(stride):
    x = np.random.default_rng(0).normal(size=(2, 7, 2, 3, 4)).astype(np.float32)
    module = TimeConv(8, "float32", stride=stride)
    variables = with_vae_params(module, x)
    kernel = variables["params"]["kernel"].reshape(3, 1, 1, 4, 8)
    expected = conv_nd(x, kernel, (stride, 1, 1), [(0, 0)] * 3)
    expected = expected + variables["params"]["bias"].reshape(1, 1, 1, 1, -1)
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=2e-6)


def test_the_norm_is_wans_and_has_a_gradient_at_zero():
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 2, 6)).astype(np.float32)
    x[0, 0] *= 1e-6
    x[0, 1, 0, 0] = 0.0
    module = Norm("float32")
    variables = with_vae_params(module, x)
    gamma = variables["params"]["scale"].reshape(1, 1, 1, 1, -1)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    expected = x / np.maximum(length, 1e-12) * 6**0.5 * gamma
    apply = functools.partial(module.apply, variables)
    np.testing.assert_allclose(quick(apply)(x), expected, rtol=2e-5)
    grad = quick(jax.grad(lambda x: jnp.sum(apply(x))))(x)
    assert np.isfinite(grad).all()


def test_attention_stays_within_a_frame_and_sees_all_of_it():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 3, 4)).astype(np.float32)
    module = FrameAttention("float32")
    variables = with_vae_params(module, x)
    apply = jax.jit(functools.partial(module.apply, variables))
    changed = x.copy()
    changed[0, 1, 0, 0] += 1.0
    moved = (apply(x) != apply(changed)).any(axis=-1)[0]
    assert moved[1].all() and not moved[0].any() and not moved[2].any()


def test_layers_are_where_wan_has_them(params):
    """Three shortcuts, halving in the upsampling convolutions, no quiet extras."""
    shapes = {
        name: leaf.shape
        for name, leaf in named_leaves(params).items()
        if name.endswith("kernel")
    }
    shortcuts = [name for name in shapes if "shortcut" in name]
    assert len(shortcuts) == 3
    ups = [shapes[f"decoder.stage_{i}_up.conv.kernel"] for i in range(3)]
    assert ups == [(1, 3, 3, 16, 8), (1, 3, 3, 16, 8), (1, 3, 3, 8, 4)]
    times = {name: s for name, s in shapes.items() if "time_conv" in name}
    assert times == {
        "encoder.stage_1_down.time_conv.kernel": (3, 8, 8),
        "encoder.stage_2_down.time_conv.kernel": (3, 16, 16),
        "decoder.stage_0_up.time_conv.kernel": (3, 16, 32),
        "decoder.stage_1_up.time_conv.kernel": (3, 16, 32),
    }


# --- Statistics and initialisation ------------------------------------------------


def test_normalise_and_denormalise_are_inverse():
    z = latents(2)
    there = vae.normalise(CFG, z)
    back = vae.denormalise(CFG, there)
    np.testing.assert_allclose(back, z, rtol=0, atol=1e-6)
    np.testing.assert_allclose(there[..., 1], (z[..., 1] + 1.0) / 2.0, atol=1e-6)
    with pytest.raises(ValueError, match="no latent statistics"):
        vae.normalise(replace(CFG, latent_mean=(), latent_std=()), z)


@pytest.mark.slow
def test_a_fresh_vae_treats_a_still_clip_as_it_does_a_picture():
    picture = video(1, 16, 24)
    still = np.repeat(picture, 9, axis=1)

    @quick
    def there_and_back(pixels):
        params = vae.init(jax.random.key(0, impl="rbg"), SMALL)
        return vae.decode_unclipped(params, SMALL, vae.encode(params, SMALL, pixels)[0])

    expected = there_and_back(picture)
    assert np.std(expected) > 0.05  # something comes through
    result = there_and_back(still)
    np.testing.assert_allclose(
        result, np.repeat(expected, 9, axis=1), rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_fresh_weights_learn_everywhere_after_one_step():
    """Residual branches start at 0 and shut their own gradient, for one step only."""
    clip = video(5, 8, 8)
    init = quick(lambda: vae.init(jax.random.key(0, impl="rbg"), SMALL))

    @quick
    def grads_of(params):
        def loss(params):
            mean, logvar = vae.encode(params, SMALL, clip)
            z = mean + jnp.exp(0.5 * logvar) * noise
            l1 = jnp.mean(jnp.abs(vae.decode_unclipped(params, SMALL, z) - clip))
            return l1 + 1e-3 * jnp.mean(mean**2 + jnp.exp(logvar) - logvar)

        return jax.grad(loss)(params)

    noise = np.random.default_rng(0).normal(size=(1, 3, 4, 4, 3)).astype(np.float32)
    params = init()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    first = grads_of(params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, first)
    after = named_leaves(grads_of(params))
    dead = [name for name, g in after.items() if not (np.asarray(g) != 0).any()]
    assert dead == []
    assert all(np.isfinite(g).all() for g in after.values())

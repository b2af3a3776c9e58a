"""The linear encoder, its principal components, and the decoder that adds to them."""

import dataclasses

import jax
import numpy as np
import pytest

from soraxla.models import vae
from soraxla.models.vae.linear import principal_components
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.statistics import latent_statistics
from soraxla.training.linear_start import linear_start
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_step import VAEStepConfig, vae_fine_tuned, vae_step
from tests.marks import slow
from tests.tiny import quick, random_like

CFG = VAEConfig(
    base_width=4,
    latent_channels=6,
    multipliers=(1, 1, 2),
    temporal_down=(True, True),
    res_blocks=1,
    linear=True,
    dtype="float32",
)


# Every layer there is, at half the time to compile.
SMALL = dataclasses.replace(CFG, multipliers=(1, 2), temporal_down=(True,))


def random_params(cfg):
    return random_like(jax.eval_shape(lambda: vae.init(jax.random.key(0), cfg)))


def moving(seed, frames=9, side=16):
    """A sum of few waves, so that few components say nearly all."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(*(np.arange(n) for n in (frames, side, side)), indexing="ij")
    phase = 0.3 * x + 0.2 * y + 0.4 * t * rng.uniform(0, 1) + rng.uniform(0, 6)
    video = np.sin(phase)[..., None] * rng.uniform(0.2, 0.8, 3)
    return video.astype(np.float32)


CLIPS = [moving(seed) for seed in range(12)]


def windows(clips=CLIPS):
    pixels = np.stack([np.round((clip + 1) * 127.5).astype(np.uint8) for clip in clips])
    return [{"video": part} for part in np.split(pixels, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cfg", "shape"), [(SMALL, (1, 5, 8, 8, 6)), *slow((CFG, (1, 3, 4, 4, 6)))]
)
def test_chunks_give_what_the_whole_clip_gives(cfg, shape):
    params, video = random_params(cfg), moving(3)[None]
    encode = quick(lambda v, past: vae.encode_chunk(params, cfg, v, past))
    decode = quick(lambda z, past: vae.decode_chunk(params, cfg, z, past))
    mean, logvar = quick(lambda v: vae.encode(params, cfg, v))(video)
    first, _, past = encode(video[:, :5], None)
    second, _, _ = encode(video[:, 5:], past)
    np.testing.assert_allclose(
        np.concatenate([first, second], axis=1), mean, rtol=0, atol=1e-5
    )
    assert mean.shape == shape and (np.asarray(logvar) == -30).all()
    whole = quick(lambda z: vae.decode_unclipped(params, cfg, z))(mean)
    start, past = decode(mean[:, :2], None)
    end, _ = decode(mean[:, 2:], past)
    streamed = np.concatenate([start, end], axis=1)
    np.testing.assert_allclose(streamed, np.clip(whole, -1, 1), rtol=0, atol=1e-4)


def test_a_latent_sees_its_own_pixels_alone():
    params, video = random_params(CFG), moving(3)[None]
    changed = video.copy()
    changed[:, 5:, 4:8, 4:8] += 1.0  # latent frame 2, row 1, column 1
    a, b = (np.asarray(vae.encode(params, CFG, v)[0]) for v in (video, changed))
    differs = (a != b).any(-1)[0]
    assert differs[2, 1, 1] and differs.sum() == 1


def test_principal_components_are_the_best_linear_code():
    """No other basis of as many channels comes nearer; SVD says how near one can."""
    down, up = principal_components(CLIPS, frames=4, side=4, channels=6)
    params, later = {"encoder": {"linear": down}}, up["later"]
    blocks, back = [], []
    for clip in CLIPS:
        z = np.asarray(vae.encode(params, CFG, clip[None])[0][0, 1:])
        pixels = z @ np.asarray(later["kernel"]) + np.asarray(later["bias"])
        back.append(pixels.reshape(-1, 192))
        parts = clip[1:].reshape(2, 4, 4, 4, 4, 4, 3).transpose(0, 2, 4, 1, 3, 5, 6)
        blocks.append(parts.reshape(-1, 192))
    x, y = np.concatenate(blocks), np.concatenate(back)
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    least = float((singular[6:] ** 2).sum())
    assert float(((x - y) ** 2).sum()) == pytest.approx(least, rel=1e-2, abs=1e-2)
    assert least < 0.05 * float((singular**2).sum())


def test_the_first_frame_has_the_latents_of_a_block_that_stands_still():
    down, _ = principal_components(CLIPS, frames=4, side=4, channels=6)
    still = np.repeat(CLIPS[0][:1], 5, axis=0)[None]
    z = np.asarray(vae.encode({"encoder": {"linear": down}}, CFG, still)[0])[0]
    first, later = z[0].reshape(-1, 6), z[1].reshape(-1, 6)
    # A block has four frames to tell of, and so is twice as long.
    cosine = (first * later).sum() / np.linalg.norm(first) / np.linalg.norm(later)
    assert cosine > 0.9


@pytest.mark.slow
def test_a_start_decodes_as_the_components_do_and_has_a_variance_of_one():
    start = linear_start(CFG, windows(), seed=0)
    z, _ = vae.encode(start.params, start.model, CLIPS[0][None])
    linear = jax.device_get(start.params["decoder"]["linear"]["first"])
    video = quick(lambda z: vae.decode_unclipped(start.params, CFG, z))(z)
    alone = np.asarray(z)[0, 0] @ linear["kernel"] + linear["bias"]
    alone = alone.reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4)
    np.testing.assert_allclose(video[0, 0], alone.reshape(16, 16, 3), atol=1e-5)
    normal = np.concatenate(
        [
            np.asarray(vae.normalise(start.model, vae.encode(start.params, CFG, c)[0]))
            for batch in windows()
            for c in np.split(batch["video"] / np.float32(127.5) - 1, 3)
        ]
    ).reshape(-1, 6)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    spread = normal.std(0)
    assert np.mean(spread**2) == pytest.approx(1.0, rel=1e-4)
    assert spread[0] > 1.5 * spread[-1]  # the order is kept


@pytest.mark.slow
def test_training_leaves_the_encoder_and_the_statistics_as_they_are():
    start = linear_start(CFG, windows(), seed=0)
    cfg = VAEStepConfig(model=start.model, optim=OptimConfig(warmup_steps=1))
    before = vae_fine_tuned(start.params, cfg=cfg, start=start.model)
    moments = latent_statistics(before.extra)
    state, step = before, quick(lambda s, b: vae_step(s, b, cfg=cfg))
    losses = []
    for _ in range(3):
        state, metrics = step(state, windows()[0])
        losses.append(float(metrics["loss"]))
    for tree in (state.params, state.ema):
        jax.tree.map(
            np.testing.assert_array_equal, tree["encoder"], before.params["encoder"]
        )
    assert latent_statistics(state.extra) == moments
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (dataclasses.replace(CFG, latent_channels=49), windows(), "at most 48"),
        (CFG, [{"video": np.zeros((2, 1, 16, 16, 3), np.uint8)}], "more than a frame"),
    ],
)
def test_what_cannot_begin_is_refused(model, batches, message):
    with pytest.raises(ValueError, match=message) as error:
        linear_start(model, batches, seed=0)
    assert "\n" not in str(error.value)


def test_weight_decay_is_refused():
    with pytest.raises(ValueError, match=r"weight_decay is 0\.1, expected 0"):
        VAEStepConfig(model=CFG, optim=OptimConfig(weight_decay=0.1))

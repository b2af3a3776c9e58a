"""Guidance mixes two predictions, from one pass over twice the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.types import PackedBatch
from soraxla.diffusion.guidance import Guidance, Unconditional, guided
from soraxla.diffusion.process import PREDICTIONS, Process


def rows(text_tokens, seed, length=4):
    """Two rows of one segment with random text."""
    ids = np.ones((2, length), np.int32)
    rng = np.random.default_rng(seed)
    return PackedBatch(
        latents=np.zeros((2, length, 3), np.float32),
        segment_ids=ids,
        token_index=ids,
        positions=np.zeros((2, length, 3), np.float32),
        condition_mask=np.zeros(ids.shape, bool),
        controls=np.zeros((*ids.shape, 0), np.float32),
        features=np.zeros((*ids.shape, 0), np.float32),
        text=rng.normal(size=(2, text_tokens, 3)).astype(np.float32),
        text_segment_ids=np.ones((2, text_tokens), np.int32),
        visit=np.zeros((2, 1), np.uint32),
        shift=np.ones((2, 1), np.float32),
    )


def network(x, t, batch):
    """Depends on x, t and the mean of the real text tokens of its row."""
    real = (batch.text_segment_ids > 0)[:, :, None]
    text = jnp.sum(batch.text * real, axis=1) / jnp.sum(real, axis=1)
    return x * t[:, :, None] + text[:, None, :]


def under(batch):
    return lambda x, t: network(x, t, batch)


X = np.random.default_rng(9).normal(size=(2, 4, 3)).astype(np.float32)
T = np.array([[0.25], [0.75]], np.float32)
PROMPT, NEGATIVE = rows(5, 0), rows(2, 1)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_it_is_both_predictions_apart(scale):
    """The prompts may differ in length; at scale 0 only the negative one counts."""
    c, u = network(X, T, PROMPT), network(X, T, NEGATIVE)
    out = guided(under, PROMPT, NEGATIVE, guidance=Guidance(cfg_scale=scale))(X, T)
    np.testing.assert_allclose(out, u + scale * (c - u), rtol=0, atol=2e-6)
    assert np.abs(c - u).max() > 0.5


def test_one_pass_over_twice_the_rows_and_none_doubled_at_scale_one():
    conditions, seen = [], []

    def counted(batch):
        conditions.append(batch.text.shape[:2])

        def denoise(x, t):
            seen.append((x.shape[0], t.shape[0]))
            return network(x, t, batch)

        return denoise

    both = guided(counted, PROMPT, NEGATIVE, guidance=Guidance(cfg_scale=2.0))
    both(X, T), both(X, T)
    plain = guided(counted, PROMPT, NEGATIVE, guidance=Guidance())(X, T)
    assert conditions == [(4, 5), (2, 5)]  # once, however many steps
    assert seen == [(4, 4), (4, 4), (2, 2)]
    np.testing.assert_array_equal(plain, network(X, T, PROMPT))


def test_guidance_towards_what_is_given_and_towards_the_prompt():
    """v∅ + g_i(v_i − v∅) + g_t(v_it − v_i), the third rows seen their own way."""
    nothing = Unconditional(rows(3, 2), lambda x, t: x - t[:, :, None])
    both = network(X, T, PROMPT)
    image = network(X, T, NEGATIVE)
    none = network(X - T[:, :, None], T, nothing.batch)
    guidance = Guidance(cfg_scale=3.0, image_scale=2.0)
    out = guided(under, PROMPT, NEGATIVE, nothing, guidance=guidance)(X, T)
    expected = none + 2.0 * (image - none) + 3.0 * (both - image)
    np.testing.assert_allclose(out, expected, rtol=0, atol=3e-6)
    with pytest.raises(ValueError, match=r"image_scale 2\.0 need the rows"):
        guided(under, PROMPT, NEGATIVE, guidance=guidance)


def test_outside_its_interval_there_is_no_guidance():
    """Row 0 is at 0.25 and row 1 at 0.75."""
    c, u = network(X, T, PROMPT), network(X, T, NEGATIVE)
    guidance = Guidance(cfg_scale=3.0, interval=(0.5, 0.75))
    out = guided(under, PROMPT, NEGATIVE, guidance=guidance)(X, T)
    np.testing.assert_allclose(out[0], c[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(out[1], (u + 3.0 * (c - u))[1], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cfg_scale": -1.0}, r"cfg_scale is -1\.0, expected 0 to 100"),
        ({"image_scale": float("nan")}, "image_scale is nan, expected"),
        ({"interval": (0.5, 0.2)}, r"interval is 0\.5 to 0\.2, expected two times"),
        ({"interval": (0.0, 1.5)}, "expected two times"),
    ],
)
def test_absurd_scales_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**wrong)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_mixing_predictions_mixes_clean_samples(prediction):
    """So guidance needs no conversion, whatever the network predicts."""
    process = Process(schedule="ddpm_cosine", prediction=prediction)
    t = np.full((2, 4), 0.4, np.float32)
    preds = jax.random.normal(jax.random.key(0), (2, *X.shape))
    x0_c, x0_u = (process.to_x0_eps(p, X, t)[0] for p in preds)
    mixed, _ = process.to_x0_eps(preds[1] + 4.0 * (preds[0] - preds[1]), X, t)
    np.testing.assert_allclose(mixed, x0_u + 4.0 * (x0_c - x0_u), rtol=0, atol=1e-4)


def test_negative_rows_must_be_there_and_alike():
    with pytest.raises(ValueError, match=r"cfg_scale 2\.0 .* need the rows"):
        guided(under, PROMPT, guidance=Guidance(cfg_scale=2.0))
    with pytest.raises(ValueError, match=r"\(2, 6\), expected \(2, 4\)"):
        guided(under, PROMPT, rows(2, 1, length=6), guidance=Guidance(cfg_scale=2.0))

"""The transformer's text: padded as Wan's, and encoded once for all steps."""

import numpy as np
import pytest

from soraxla.models import dit
from tests.marks import slow
from tests.models.dit.rows import CFG, A, B, C, clip, jit, pack, random_params, run, wan


@pytest.mark.slow
def test_one_pad_token_is_all_the_pads():
    """Segments of 3, 1 and 12 words padded to 12: 9, 11 and no pad tokens each."""
    full = clip(3, 2, 12)
    weights = random_params(wan(12))
    short = run(weights, wan(12), *pack(A, B, full))
    padded = [
        {**c, "text": np.pad(c["text"], ((0, 12 - len(c["text"])), (0, 0)))}
        for c in (A, B, full)
    ]
    real = run(weights, wan(None), *pack(*padded))
    np.testing.assert_allclose(short, real, rtol=0, atol=4e-6)
    unpadded = run(weights, wan(None), *pack(A, B, full))
    assert np.abs(unpadded - short)[0, :10].max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("text_pad_to", [12, *slow(None)])
def test_a_text_encoded_once_is_the_text(text_pad_to):
    """With and without pads, whose bias comes along; `batch.text` is then not read."""
    cfg = wan(text_pad_to) if text_pad_to else CFG
    weights = random_params(cfg)
    x, t, batch, condition_t = pack(A, B, C)

    @jit
    def encoded_once(params, batch, other):
        text = dit.encode_text(params, cfg, batch)
        return dit.apply(params, cfg, x, t, other, condition_t, text=text)

    other = batch._replace(text=np.zeros_like(batch.text))
    out, plain, foreign = (
        encoded_once(weights, batch, other),
        run(weights, cfg, x, t, batch, condition_t),
        run(weights, cfg, x, t, other, condition_t),
    )
    np.testing.assert_array_equal(out, plain)
    assert np.abs(out - foreign).max() > 1e-2

"""Clips of random numbers, which measure how fast a model trains."""

import functools
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from data_pipelines.loader import packed_batches
from data_pipelines.synthetic import synthetic, tokens_of
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.packing.conditioning import ConditioningMixture
from soraxla.packing.pack import PackConfig

WIDTHS = {"channels": 4, "text_width": 8, "patch": (1, 2, 2)}
PACK = PackConfig(
    row_length=96,
    text_length=32,
    max_segments=8,
    mixture=ConditioningMixture(none=0.5, first=0.3, tail=0.2),
)


@pytest.mark.parametrize("tokens", [1, 7, 24, 96])
def test_clips_have_the_tokens_and_fill_rows(tokens):
    """Any number of tokens is a clip, and a mixture of tasks is no obstacle."""
    dataset = synthetic(tokens, PACK, **WIDTHS)
    sizes = dataset.sizes
    assert (sizes.t * sizes.h * sizes.w == 4 * tokens).all()
    shift = functools.partial(time_shift, "auto")
    one, two = (
        packed_batches(dataset, PACK, seed=0, batch_rows=2, shift=shift, prefetch=0)
        for _ in range(2)
    )
    for a, b in zip(islice(one, 2), islice(two, 2), strict=True):
        assert a.latents.shape == (2, 96, 16)
        np.testing.assert_array_equal(a.latents, b.latents)
        used = a.segment_ids > 0
        assert used.sum(1).max() == min(8, 96 // tokens) * tokens
        assert abs(a.latents[used].astype(np.float32).std() - 1) < 0.1


def test_a_clip_is_as_square_as_its_tokens_allow():
    sizes = synthetic(1024, replace(PACK, row_length=1024), **WIDTHS).sizes
    assert (sizes.t[0], sizes.h[0], sizes.w[0]) == (16, 16, 16)


def test_only_a_number_of_tokens_is_synthetic():
    assert tokens_of("synthetic:1024") == 1024
    assert tokens_of("my/synthetic") is None
    for wrong in ("synthetic:", "synthetic:0", "synthetic:-3", "synthetic:many"):
        with pytest.raises(UserError, match=f"{wrong}: expected synthetic:TOKENS"):
            tokens_of(wrong)
    with pytest.raises(UserError, match="synthetic:97: a clip of 97 tokens does not"):
        synthetic(97, PACK, **WIDTHS)

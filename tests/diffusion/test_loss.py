"""The loss is the same however clips are packed, and sees generated tokens only."""

import jax
import jax.numpy as jnp
import numpy as np

from soraxla.core.types import PackedBatch
from soraxla.diffusion.loss import packed_mse
from tests.tiny import quick


def _batch(rows, length, segments, condition_mask=()):
    """`rows` of (clip, tokens); only what the loss reads is real."""
    ids = np.zeros((len(rows), length), np.int32)
    at = {}
    for b, row in enumerate(rows):
        start = 0
        for s, (clip, n) in enumerate(row):
            ids[b, start : start + n] = s + 1
            at[clip] = (b, slice(start, start + n))
            start += n
    zeros = np.zeros((len(rows), length, 1), np.float32)
    known_BL = np.zeros(ids.shape, bool)
    for clip, index in condition_mask:
        known_BL[at[clip][0], at[clip][1].start + index] = True
    batch = PackedBatch(
        latents=zeros,
        segment_ids=ids,
        token_index=ids,
        positions=np.zeros((*ids.shape, 3), np.float32),
        condition_mask=known_BL,
        controls=np.zeros((*ids.shape, 0), np.float32),
        features=np.zeros((*ids.shape, 0), np.float32),
        text=zeros,
        text_segment_ids=ids,
        visit=np.zeros((len(rows), segments), np.uint32),
        shift=np.ones((len(rows), segments), np.float32),
    )
    return batch, at


SIZES = {"a": 9, "b": 4, "c": 1}
ERROR = {
    clip: np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    for clip, n in SIZES.items()
}


mse = quick(packed_mse)


def _sums(rows, length=16, segments=3, condition_mask=()):
    """Returns the sums of `rows` and of empty ones up to three, in one program."""
    rows = [*rows, "", ""][:3] if segments > 1 else rows
    rows = [[(clip, SIZES[clip]) for clip in row] for row in rows]
    batch, at = _batch(rows, length, segments, condition_mask)
    pred = np.full((*batch.segment_ids.shape, 3), 1e3, np.float32)  # padding is awful
    for clip, (b, where) in at.items():
        pred[b, where] = ERROR[clip]
    return mse(pred, np.zeros_like(pred), batch)


def test_it_is_the_weighted_mean_of_clip_means():
    loss, weight = _sums(["abc"])
    means = {clip: np.mean(error**2) for clip, error in ERROR.items()}
    np.testing.assert_allclose(
        loss, 3 * means["a"] + 2 * means["b"] + means["c"], rtol=1e-6
    )
    np.testing.assert_allclose(weight, 3 + 2 + 1, rtol=1e-6)


def test_packing_cannot_change_it():
    together = np.array(_sums(["abc"]))
    for rows in (["a", "b", "c"], ["cb", "a"], ["bac", ""]):
        np.testing.assert_allclose(_sums(rows), together, rtol=1e-6)
    apart = [np.array(_sums([clip], 12, 1)) for clip in "abc"]
    np.testing.assert_allclose(sum(apart), together, rtol=1e-6)


def test_known_tokens_count_in_neither_sum():
    loss, weight = _sums(["ab"], condition_mask=[("a", i) for i in range(5)])
    a, b = np.mean(ERROR["a"][5:] ** 2), np.mean(ERROR["b"] ** 2)
    np.testing.assert_allclose(loss, 2 * a + 2 * b, rtol=1e-6)
    np.testing.assert_allclose(weight, 4.0, rtol=1e-6)


def test_a_weight_counts_a_token_more_but_not_its_clip():
    batch, _ = _batch([[("a", 4)]], 6, 2)
    pred = np.arange(18, dtype=np.float32).reshape(1, 6, 3)
    weight = np.array([[1, 2, 3, 4, 1e9, 1e9]], np.float32)
    plain = np.square(pred[0, :4]).mean(-1)
    total, count = packed_mse(pred, np.zeros_like(pred), batch, weight)
    np.testing.assert_allclose(total, (plain * [1, 2, 3, 4]).sum() / 2, rtol=1e-6)
    np.testing.assert_allclose(count, 2.0, rtol=1e-6)


def test_a_batch_of_nothing_is_zero_with_zero_gradient():
    batch, _ = _batch([[], []], 4, 2)
    pred = np.ones((2, 4, 3), np.float32)

    def loss(pred):
        return packed_mse(pred, jnp.zeros_like(pred), batch)[0]

    value, grad = quick(jax.value_and_grad(loss))(pred)
    assert value == 0.0 and np.all(np.asarray(grad) == 0.0)

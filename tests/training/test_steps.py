"""One step of each model: what the loss is, and what it does not depend on."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.types import LatentGrid
from soraxla.diffusion.loss import packed_mse
from soraxla.diffusion.noise_schedule import sample_times
from soraxla.diffusion.process import Process, Purpose, noise, sample_keys, token_times
from soraxla.models.dit.config import dit_config
from soraxla.packing.bin_packing import Visit, balance, fewest_rows
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.packing.patchify import positions
from soraxla.training.dit_step import DiTStepConfig, _sum_of_parts, dit_init, dit_step
from soraxla.training.optim import OptimConfig
from soraxla.training.state import create
from tests.tiny import guarded, quick, random_like

FAST = OptimConfig(learning_rate=3e-3, warmup_steps=1)
DIT = DiTStepConfig(
    # Quick to compile: the refiner and remat have tests in tests/models/dit.
    model=dit_config(
        "debug",
        latent_channels=2,
        text_width=6,
        text_refiner_layers=0,
        remat="none",
        dtype="float32",
    ),
    optim=FAST,
    seed=3,
)
SPEC = PackConfig(row_length=32, text_length=12, max_segments=4)


def clip(seed, grid, visit):
    rng = np.random.default_rng(seed)
    place = positions(LatentGrid(t=grid[0], h=grid[1], w=grid[2]), (1, 2, 2), 24.0)
    return Segment(
        tokens=rng.normal(size=(len(place), 8)).astype(np.float32),
        positions=place,
        text=rng.normal(size=(1 + seed, 6)).astype(np.float32),
        visit=visit,
        shift=1.0 + seed,
    )


A, B, C = clip(0, (1, 4, 6), 11), clip(1, (3, 4, 4), 7), clip(2, (2, 4, 4), 1 << 31)


def rows(*segments):
    return pack(segments, SPEC)


# --- The transformer --------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    """Weights of which none is 0, so that every input shows in the loss."""
    shapes = jax.eval_shape(lambda: dit_init(DIT))
    return jax.device_put(
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)._replace(
            params=random_like(shapes.params)
        )
    )


@pytest.fixture(scope="module")
def zero(state):
    """The same weights but for the head, which starts at 0."""
    head = jax.tree.map(jnp.zeros_like, state.params["head"])
    return state._replace(params={**state.params, "head": head})


@pytest.fixture(scope="module")
def step():
    return guarded(functools.partial(dit_step, cfg=DIT))


@pytest.fixture(scope="module")
def loss():
    """The loss of a step, compiled without the gradient and the update."""
    return guarded(lambda state, batch: dit_step(state, batch, cfg=DIT)[1]["loss"])


@pytest.fixture(scope="module")
def loss_of(loss, state):
    return lambda batch: float(loss(state, batch))


@quick
def target_of(batch):
    """Returns the target of the prediction, computed only from the visits."""
    keys = sample_keys(DIT.seed, Purpose.TIME, batch.visit)
    t_BL = token_times(sample_times(keys, batch.shift), batch.segment_ids)
    eps = noise(DIT.seed, batch.visit, batch.segment_ids, batch.token_index, 8)
    return Process().target(batch.latents, eps, t_BL)


def test_the_first_loss_is_the_zero_predictors(zero, loss):
    """The loss is the mean of (ε − x0)², computed only from the visits."""
    batch = rows([A, B], [C])
    target = target_of(batch)
    total, weight = packed_mse(jnp.zeros_like(target), target, batch)
    found = loss(zero, batch)
    np.testing.assert_allclose(found, total / weight, rtol=1e-6)
    assert 1.0 < found < 3.0


def test_the_loss_does_not_depend_on_how_clips_are_packed(loss_of):
    """Same draws, same noise and times, in any row and place."""
    expected = loss_of(rows([A, B], [C]))
    for other in ([[C], [A, B]], [[B, A], [C]], [[A], [C, B]], [[C, A], [B]]):
        np.testing.assert_allclose(loss_of(rows(*other)), expected, rtol=1e-6)


def test_a_draw_has_its_noise_and_time_whatever_the_step(loss, state):
    batch = rows([A, B], [C])
    later = state._replace(step=jnp.asarray(1234, jnp.int32))
    assert loss(state, batch) == loss(later, batch)


def test_another_draw_has_other_noise(loss_of):
    """Another visit to the same clip; the loss differs by its noise and time."""
    again = replace(A, visit=12)
    one = loss_of(rows([A, B], [C]))
    assert abs(loss_of(rows([again, B], [C])) - one) > 1e-3


@pytest.mark.slow
def test_what_stands_at_padding_changes_nothing(step, state):
    batch = rows([A, B], [C])
    padding = batch.segment_ids == 0
    text_padding = batch.text_segment_ids == 0
    assert padding.any() and text_padding.any()
    junk = batch._replace(
        latents=np.where(padding[:, :, None], np.float32(1e3), batch.latents),
        positions=np.where(padding[:, :, None], np.float32(99), batch.positions),
        text=np.where(text_padding[:, :, None], np.float32(1e3), batch.text),
    )
    clean, dirty = (step(state, b)[0].params for b in (batch, junk))
    for a, b in zip(*map(jax.tree.leaves, (clean, dirty)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_known_tokens_have_a_time_of_their_own_and_no_loss(loss, zero, state):
    """The zero predictor's loss is that of the others; what is known is seen."""
    condition_mask = np.arange(12) < 4  # of B's three latent frames, the first
    batch = rows([A, replace(B, condition_mask=condition_mask)], [C])
    square = np.square(target_of(batch)).mean(-1)
    ids = np.where(batch.condition_mask, 0, batch.segment_ids)
    parts = [square[r][ids[r] == s] for r, s in ((0, 1), (0, 2), (1, 1))]
    weight = np.sqrt([len(part) for part in parts])
    expected = (weight * [part.mean() for part in parts]).sum() / weight.sum()
    np.testing.assert_allclose(loss(zero, batch), expected, rtol=1e-6)
    other = replace(
        B,
        condition_mask=condition_mask,
        tokens=B.tokens + 3.0 * condition_mask[:, None],
    )
    seen, changed = (loss(state, rows([A, b], [C])) for b in (B, other))
    assert abs(float(seen - changed)) > 1e-3


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_sum_of_parts_is_that_of_all_rows(parts):
    """Every row is in one part, beside its own numbers."""
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    weight = np.arange(8, dtype=np.float32)

    def sums(x, weight):
        return {"sum": jnp.sum(x * weight[:, None], axis=0), "rows": weight.sum()}

    axes = (("batch", None), ("batch",))
    found = _sum_of_parts(sums, (x, weight), axes, parts)
    jax.tree.map(np.testing.assert_allclose, found, sums(x, weight))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_neither_loss_nor_update(step, state, parts):
    """Parts of very different weight: of one clip, of three, of none at all."""
    tiny = clip(3, (1, 2, 2), 5)
    batch = rows([A, B], [tiny], [C], [])
    in_parts = quick(functools.partial(dit_step, cfg=DIT, accumulate=parts))
    (one, expected), (other, found) = step(state, batch), in_parts(state, batch)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    assert found["tokens"] == expected["tokens"]
    # The gradient, as Adam's first moment has it: its update divides rounding by
    # rounding where that is almost 0, as keys' biases have it.
    one, other = (jax.tree.leaves(s.opt[1][0].mu) for s in (one, other))
    atol = 1e-6 * max(np.abs(leaf).max() for leaf in one)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=atol)


def test_dealing_rows_by_cost_does_not_change_the_objective(monkeypatch):
    """Over an epoch, the gradients of the dealt steps add up to those of the others.

    Long clips have rows to themselves, and small ones share a row, so steps of rows
    of like cost differ in the weight of their clips. The model is one factor a channel.
    """
    grids = [(2, 8, 8)] * 4 + [(1, 4, 4)] * 32  # 32 or 4 tokens: 8 rows of one epoch
    tokens = np.array([t * h * w // 4 for t, h, w in grids])
    clips = [replace(clip(i % 3, g, i), visit=i) for i, g in enumerate(grids)]
    spec = PackConfig(row_length=32, text_length=24, max_segments=8)
    visits = [Visit(i, i, int(n), 1, 1, True) for i, n in enumerate(tokens)]
    rows = [tuple(row) for row in fewest_rows(visits, spec)]
    assert [len(row) for row in rows] == [1] * 4 + [8] * 4
    mixed = [rows[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    undealt = [mixed[i : i + 2] for i in range(0, 8, 2)]
    dealt = balance(mixed, 2)
    assert [{len(row) for row in step} for step in dealt] == [{1}, {1}, {8}, {8}]

    def error(params, batch, *_, **__):
        return packed_mse(
            params["factors"][None, None] * batch.latents, batch.latents, batch
        )

    monkeypatch.setattr("soraxla.training.dit_step.dit_error", error)
    cfg = replace(DIT, optim=replace(FAST, clip_norm=np.inf))
    state = create({"factors": jnp.arange(2.0, 10.0)}, cfg.optim, {})

    def summed(steps, mean_weight):
        step = quick(functools.partial(dit_step, cfg=cfg, mean_weight=mean_weight))
        total = np.zeros(8)
        for of_step in steps:
            batch = pack([[clips[v.sample] for v in row] for row in of_step], spec)
            # The gradient, multiplied by 1 - b1.
            total += step(state, batch)[0].opt[1][0].mu["factors"]
        return total

    mean = float(np.sqrt(tokens).sum()) / 4
    expected = summed(undealt, mean)
    np.testing.assert_allclose(summed(dealt, mean), expected, rtol=1e-5)
    # Divided by its own weight, a step of long clips would count as much as others.
    assert np.abs(summed(dealt, None) / expected - 1).max() > 0.05


@pytest.mark.slow
def test_the_transformer_learns_a_batch_by_heart(step):
    batch, losses = rows([A, B], [C]), []
    state = quick(lambda: dit_init(DIT))()
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert state.step == 30 and state.skipped == 0


@pytest.mark.slow
def test_a_forecast_is_learnt_from_the_frames_before_as_they_are():
    """At first it copies them, at their own small time; then it learns by heart."""
    model = replace(DIT.model, forecast_layers=1, local_width=16)
    cfg = replace(DIT, model=model, part="forecast")
    with pytest.raises(ValueError, match=r"expected 0 where step\.part is 'forecast'"):
        replace(cfg, optim=replace(cfg.optim, weight_decay=0.1))
    train = quick(functools.partial(dit_step, cfg=cfg))
    state = quick(functools.partial(dit_init, cfg))()
    batch, frame = rows([B, C]), 4  # of 3 and 2 frames
    keys = sample_keys(cfg.seed, Purpose.CONDITION, batch.visit)
    t_BS = 0.1 * jax.vmap(jax.vmap(jax.random.uniform))(keys)
    t_BL = token_times(t_BS, batch.segment_ids)
    eps = noise(cfg.seed, batch.visit, batch.segment_ids, batch.token_index, 8)
    x = np.array(Process().corrupt(batch.latents, eps, t_BL))
    copied = np.concatenate([np.zeros_like(x[:, :frame]), x[:, :-frame]], axis=1)
    copied[:, 3 * frame : 4 * frame] = 0.0  # the second clip's first
    total, weight = packed_mse(jnp.asarray(copied), batch.latents, batch)
    state, metrics = train(state, batch)
    np.testing.assert_allclose(metrics["loss"], total / weight, rtol=1e-5)
    for _ in range(100):
        state, metrics = train(state, batch)
    # Of the first frames, 2 of 5, nothing tells.
    assert metrics["loss"] < 0.6 * total / weight

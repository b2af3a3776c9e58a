"""The transformer on packed rows: every clip is computed as if it had its own row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.trees import named_leaves
from soraxla.models import dit
from soraxla.models.dit import lora
from soraxla.models.dit.layers import Block
from soraxla.models.dit.lora import LoRAConfig
from soraxla.ops.engines import xla_flash
from soraxla.ops.engines.engine import Engine
from tests.marks import slow
from tests.models.dit.rows import (
    CFG,
    GATED,
    LOCAL,
    TOLD,
    A,
    B,
    C,
    L,
    gradients,
    jit,
    on_a_grid,
    pack,
    params,
    random_params,
    run,
    start,
    wan,
)


@pytest.mark.parametrize(
    "cfg",
    [CFG, *slow(GATED, LOCAL, TOLD)],
)
def test_a_packed_clip_is_computed_as_if_alone(cfg):
    """Nor do its place in the row and the padding's content matter."""
    weights = random_params(cfg)
    a, b, c = (on_a_grid(*x) for x in ((A, 1, 3), (B, 2, 2), (C, 1, 1)))
    row = np.asarray(run(weights, cfg, *pack(a, b, c)))
    assert np.abs(row).max() > 1.0
    for one, at in [(a, np.s_[:6]), (b, np.s_[6:10]), (c, np.s_[10:12])]:
        alone = np.asarray(run(weights, cfg, *pack(one, fill=7.0)))[0, : len(one["x"])]
        np.testing.assert_allclose(row[0, at], alone, rtol=0, atol=4e-6)


@pytest.mark.parametrize(
    "field", ["x", "positions", "condition_mask", "text", "t", "condition_t"]
)
def test_a_changed_segment_leaves_the_others_bit_identical(field):
    """One segment's tokens, places, mask, words and times are its own business."""
    base = np.asarray(run(params(), CFG, *pack(A, B, C)))
    other = A[field] ^ True if field == "condition_mask" else A[field] * 0.5 + 0.01
    changed = np.asarray(run(params(), CFG, *pack({**A, field: other}, B, C)))
    assert np.all(np.any(base[0, :6] != changed[0, :6], axis=-1))
    np.testing.assert_array_equal(base[0, 6:], changed[0, 6:])


def test_a_time_reaches_its_own_tokens_first():
    """Condition tokens take condition_t and the others t, where nothing mixes them."""
    still = dict(params())
    still["blocks"] = jax.tree.map(np.zeros_like, params()["blocks"])
    still["time_proj"] = jax.tree.map(np.zeros_like, params()["time_proj"])
    base = np.asarray(run(still, CFG, *pack(A, B, C)))
    for field, moved in [
        ("t", ~A["condition_mask"]),
        ("condition_t", A["condition_mask"]),
    ]:
        other = {**A, field: A[field] + 0.05}
        out = np.asarray(run(still, CFG, *pack(other, B, C)))
        changed = np.any(out != base, axis=-1)[0]
        np.testing.assert_array_equal(changed, np.pad(moved, (0, L - 6)))


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [wan(None), CFG])
def test_padding_is_zero_and_gets_no_gradient(cfg):
    """Whatever stands there, the parameters' gradient is the same to the bit."""
    weights = random_params(cfg)
    x, t, batch, condition_t = pack(A, B, fill=3.0)
    pad, text_pad = batch.segment_ids == 0, batch.text_segment_ids == 0
    assert np.all(np.asarray(run(weights, cfg, x, t, batch, condition_t))[pad] == 0.0)
    of_params, *of_inputs = gradients(weights, cfg, x, t, batch, condition_t)
    for grad, where in zip(of_inputs, (pad, text_pad, pad), strict=True):
        assert np.all(np.asarray(grad)[where] == 0.0)
        assert np.all(np.any(np.asarray(grad)[~where] != 0.0, axis=-1))
    again = gradients(weights, cfg, *pack(A, B, fill=-11.0))[0]
    jax.tree.map(np.testing.assert_array_equal, of_params, again)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_nothing(remat):
    plain, cfg = (dataclasses.replace(CFG, remat=r) for r in ("none", remat))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=4e-6 * np.abs(b).max()
        ),
        gradients(params(), cfg, *pack(A, B, C)),
        gradients(params(), plain, *pack(A, B, C)),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remat", "again"), [("dots", 0), *slow(("full", 1), ("none", 0))]
)
def test_self_attention_is_never_computed_again(monkeypatch, remat, again):
    """Forward: self- and cross-attention; again at most the last."""

    def marked(*inputs):
        out, lse = xla_flash.forward(*inputs)
        mark = jnp.cbrt(lse)  # nothing else computes one
        return out + mark[..., None], mark

    engine = Engine(marked, xla_flash.backward)
    monkeypatch.setattr("soraxla.ops.attention.ENGINES", {"cpu": engine})
    cfg = dataclasses.replace(wan(None), remat=remat)
    x, t, batch, condition_t = pack(A, B, C)

    def loss(params):
        return jnp.sum(dit.apply(params, cfg, x, t, batch, condition_t))

    text = jax.jit(jax.grad(loss)).lower(random_params(cfg)).as_text()
    assert text.count("stablehlo.cbrt") == 2 + again


@pytest.mark.slow
def test_adapters_beside_kernels_predict_what_merged_ones_do():
    """Adapters are on every layer: in the scan, the refiner, the head, of the time."""
    settings = LoRAConfig(rank=3, alpha=4.5, targets=("*",))
    shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), params(), settings))
    rng = np.random.default_rng(3)
    adapters = jax.tree.map(
        lambda a: np.float32(0.3 * rng.normal(size=a.shape)), shapes
    )
    row = pack(A, B, C)
    merged = jit(lambda *trees: lora.merge(*trees, settings))(params(), adapters)
    expected = run(merged, CFG, *row)
    x, t, batch, condition_t = row
    found = jit(
        lambda adapters: dit.apply(params(), CFG, x, t, batch, condition_t, adapters)
    )(lora.scaled(adapters, settings))
    assert np.abs(expected - run(params(), CFG, *row)).max() > 1.0
    atol = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.slow
def test_parameters_as_computed_predict_the_same_to_the_bit():
    cfg, row = dataclasses.replace(wan(None), dtype="bfloat16"), pack(A, B, C)
    weights = random_params(cfg)
    rounded = jit(dit.cast_kernels, static_argnums=1)(weights, cfg)
    np.testing.assert_array_equal(run(rounded, cfg, *row), run(weights, cfg, *row))


def test_the_time_s_kernels_are_computed_in_fp32():
    cfg = dataclasses.replace(CFG, dtype="bfloat16")
    kept = {
        name
        for name, leaf in named_leaves(
            jax.eval_shape(lambda: dit.cast_kernels(params(), cfg))
        ).items()
        if name.endswith("kernel") and leaf.dtype != jnp.bfloat16
    }
    assert kept == {f"time_{x}.kernel" for x in ("in", "out", "proj")}


@pytest.mark.slow  # `test_reference` loops over the blocks too
def test_the_scan_is_a_loop_over_unstacked_blocks():
    row = pack(A, B, C)

    @jit
    def loop(params, *row):
        model = dit.DiT(CFG).bind({"params": params})
        x, ctx, e_BRD = model.embed(*row)
        for i in range(CFG.layers):
            layer = jax.tree.map(lambda leaf: leaf[i], params["blocks"])  # noqa: B023
            x, _ = Block(CFG).apply({"params": layer}, x, ctx)
        return model.unembed(x, ctx, e_BRD, row[0])

    np.testing.assert_allclose(
        loop(params(), *row), run(params(), CFG, *row), rtol=0, atol=4e-6
    )


def captured(*inputs):
    return dit.capture(inputs[0], CFG, *inputs[1:])


def test_what_the_blocks_compute_can_be_captured():
    """All arrays have a leading axis of layers."""
    row = pack(A, B, C)
    _, inside = jax.eval_shape(captured, params(), *row)
    attentions = ("blocks.self_attn", "blocks.cross_attn")
    assert {name: leaf.shape[:3] for name, leaf in inside.items()} == {
        **dict.fromkeys(("blocks", "blocks.mlp", *attentions), (2, 1, L)),
        **{f"{name}.queries": (2, 1, L) for name in attentions},
        "blocks.self_attn.keys": (2, 1, L),
        "blocks.cross_attn.keys": (2, 1, len(row[2].text[0])),
    }


@pytest.mark.slow
def test_a_prediction_keeps_its_bits_while_blocks_are_captured():
    row = pack(A, B, C)
    found, inside = jit(captured)(params(), *row)
    np.testing.assert_array_equal(found, run(params(), CFG, *row))
    one, two = np.asarray(inside["blocks"])
    assert np.abs(two - one).max() > 0


def test_the_known_mask_says_nothing_at_the_start():
    """Its embedding starts at 0; what is left of a known token is its time."""
    assert np.all(start(only=("known_embed",))["known_embed"] == 0.0)
    unknown = {**params(), "known_embed": np.zeros(CFG.width, np.float32)}
    x, t, batch, _ = pack(A, B, C)
    nobody = batch._replace(condition_mask=np.zeros_like(batch.condition_mask))
    out = run(unknown, CFG, x, t, batch, t)
    np.testing.assert_array_equal(out, run(unknown, CFG, x, t, nobody, t))
    # Once it has learnt, it is known tokens it speaks of.
    np.testing.assert_array_equal(out, run(params(), CFG, x, t, nobody, t))
    assert np.any(run(params(), CFG, x, t, batch, t) != out)


def test_the_first_prediction_is_zero():
    """By the head that it starts with, whatever is before."""
    weights = {**params(), "head": start(only=("head",))["head"]}
    assert np.all(np.asarray(run(weights, CFG, *pack(A, B, C))) == 0.0)


@pytest.mark.slow
def test_the_first_prediction_is_zero_with_all_that_adds_to_it():
    assert np.all(np.asarray(run(start(TOLD), TOLD, *pack(A, B, C))) == 0.0)


@pytest.mark.slow
def test_a_fresh_model_learns_at_once():
    """After one step only parameters behind a closed gate have a gradient of 0."""
    row = pack(A, B, C)
    grad = gradients(start(), CFG, *row)[0]
    assert np.any(grad["head"]["kernel"] != 0.0)
    moved = {"head": jax.tree.map(lambda p, g: p - g, start()["head"], grad["head"])}
    grad = gradients({**start(), **moved}, CFG, *row)[0]
    for name in ("time_proj", "patch_embed", "known_embed", "text_embed"):
        assert any(np.any(g != 0.0) for g in jax.tree.leaves(grad[name])), name
    assert np.all(np.any(grad["blocks"]["table"][:, (2, 5)] != 0.0, axis=-1))


@pytest.mark.slow
def test_bf16_follows_fp32_and_answers_in_fp32():
    """bf16 keeps 8 bits; 2 layers of O(1) activations stay within a few roundings."""
    cfg = dataclasses.replace(wan(None), dtype="bfloat16")
    weights = random_params(cfg)
    full = np.asarray(run(weights, wan(None), *pack(A, B, C)))
    half = np.asarray(run(weights, cfg, *pack(A, B, C)))
    assert half.dtype == np.float32
    assert np.sqrt(np.mean((half - full)[0, :12] ** 2)) < 0.03 * full.std()


def test_inputs_of_another_model_are_refused():
    x, t, batch, _ = pack(A)
    with pytest.raises(ValueError, match="token width is 4, expected 8"):
        dit.apply(params(), CFG, x[..., :4], t, batch)
    with pytest.raises(ValueError, match="text width is 3, expected 6"):
        dit.apply(params(), CFG, x, t, batch._replace(text=batch.text[..., :3]))


@pytest.mark.parametrize("position_embed", [True, *slow(False)])
def test_only_the_position_embedding_tells_a_place_from_another(position_embed):
    cfg = CFG if position_embed else wan(None)
    moved = {**A, "positions": A["positions"] + [3, 1, 2]}
    here, there = (
        run(random_params(cfg), cfg, *pack(clip))[0, : len(A["x"])]
        for clip in (A, moved)
    )
    difference = np.max(np.abs(here - there))
    assert difference > 0.1 if position_embed else difference < 1e-4

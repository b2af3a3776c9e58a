"""The transformer on packed rows: every clip computed as if alone, in Wan's layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.core.trees import named_leaves
from soraxla.core.types import PackedBatch
from soraxla.models import dit
from soraxla.models.dit import lora
from soraxla.models.dit.config import SIZES, DiTConfig, dit_config
from soraxla.models.dit.layers import Block
from soraxla.models.dit.lora import LoRAConfig
from soraxla.ops.engines import xla_flash
from soraxla.ops.engines.engine import Engine
from tests.marks import slow

CFG = DiTConfig(
    layers=2,
    width=24,
    heads=2,
    mlp_width=40,
    latent_channels=2,
    text_width=6,
    dtype="float32",
)
GATED = dataclasses.replace(CFG, input_gate=True)
LOCAL = dataclasses.replace(GATED, local_layers=2, local_width=6)
TOLD = dataclasses.replace(LOCAL, forecast_layers=2)
L, S, M = 14, 3, 10


def clip(seed, tokens, text_tokens, condition_mask=()):
    """What one segment brings: a dict of arrays, and its times."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(tokens, CFG.patch_dim)),
        "positions": rng.integers(0, 9, size=(tokens, 3)),
        "condition_mask": np.isin(np.arange(tokens), condition_mask),
        "text": rng.normal(size=(text_tokens, CFG.text_width)),
        "t": rng.uniform(0.2, 0.9),
        "condition_t": rng.uniform(0.0, 0.2),
    }


def on_a_grid(c, height, width):
    """The same clip, of frames of height × width tokens."""
    place = np.indices((len(c["x"]) // (height * width), height, width))
    return {**c, "positions": place.reshape(3, -1).T}


A, B, C = (
    clip(0, 6, 3, condition_mask=(0, 1)),
    clip(1, 4, 1),
    clip(2, 2, 4, condition_mask=(1,)),
)


def pack(*clips, length=L, text_length=M, fill=0.0):
    """One row: (x, t, batch, condition_t). `fill` stands at padding."""
    x = np.full((1, length, CFG.patch_dim), fill, np.float32)
    text = np.full((1, text_length, CFG.text_width), fill, np.float32)
    positions = np.full((1, length, 3), fill, np.float32)
    ids, text_ids = (
        np.zeros((1, length), np.int32),
        np.zeros((1, text_length), np.int32),
    )
    condition_mask = np.zeros((1, length), bool)
    t, condition_t = np.full((1, S), 0.5, np.float32), np.full((1, S), 0.1, np.float32)
    start = text_start = 0
    for i, c in enumerate(clips):
        at = np.s_[0, start : start + len(c["x"])]
        text_at = np.s_[0, text_start : text_start + len(c["text"])]
        x[at], positions[at], condition_mask[at] = (
            c["x"],
            c["positions"],
            c["condition_mask"],
        )
        text[text_at] = c["text"]
        ids[at], text_ids[text_at] = i + 1, i + 1
        t[0, i], condition_t[0, i] = c["t"], c["condition_t"]
        start, text_start = start + len(c["x"]), text_start + len(c["text"])
    batch = PackedBatch(
        latents=np.zeros_like(x),
        segment_ids=ids,
        token_index=np.zeros_like(ids),
        positions=positions,
        condition_mask=condition_mask,
        controls=np.zeros((*ids.shape, 0), np.float32),
        text=text,
        text_segment_ids=text_ids,
        visit=np.zeros((1, S), np.uint32),
        shift=np.ones((1, S), np.float32),
    )
    return x, t, batch, condition_t


def random_params(cfg, seed=0):
    """No leaf left at the 0 or 1 it starts from, so that nothing is invisible."""
    shapes = jax.eval_shape(lambda: dit.init(jax.random.key(0), cfg))
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name = path[-1].key
        scale = shape.shape[-2] ** -0.5 if name == "kernel" else 0.3
        value = rng.normal(size=shape.shape) * scale + (name == "scale")
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def params():
    return random_params(CFG)


# Almost all of these tests' time is compilation, of which less will do.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@functools.cache
def start(cfg=CFG):
    return jit(dit.init, static_argnums=1)(jax.random.key(0), cfg)


@functools.partial(jit, static_argnums=1)
def run(params, cfg, x, t, batch, condition_t):
    return dit.apply(params, cfg, x, t, batch, condition_t)


@functools.partial(jit, static_argnums=1)
def gradients(params, cfg, x, t, batch, condition_t):
    """Of a smooth function of the output, by parameters, x, text and positions."""

    def loss(params, x, text, positions):
        row = batch._replace(text=text, positions=positions)
        return jnp.sum(jnp.sin(0.5 + dit.apply(params, cfg, x, t, row, condition_t)))

    inputs = (params, x, batch.text, batch.positions)
    return jax.grad(loss, argnums=(0, 1, 2, 3))(*inputs)


@pytest.mark.parametrize(
    "cfg",
    [CFG, TOLD, *slow(GATED, LOCAL)],
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


def test_padding_is_zero_and_gets_no_gradient():
    """Whatever stands there, the parameters' gradient is the same to the bit."""
    x, t, batch, condition_t = pack(A, B, fill=3.0)
    pad, text_pad = batch.segment_ids == 0, batch.text_segment_ids == 0
    assert np.all(np.asarray(run(params(), CFG, x, t, batch, condition_t))[pad] == 0.0)
    of_params, *of_inputs = gradients(params(), CFG, x, t, batch, condition_t)
    for grad, where in zip(of_inputs, (pad, text_pad, pad), strict=True):
        assert np.all(np.asarray(grad)[where] == 0.0)
        assert np.all(np.any(np.asarray(grad)[~where] != 0.0, axis=-1))
    again = gradients(params(), CFG, *pack(A, B, fill=-11.0))[0]
    jax.tree.map(np.testing.assert_array_equal, of_params, again)


@pytest.mark.parametrize("remat", ["full", *slow("dots")])
def test_remat_changes_nothing(remat):
    plain, cfg = (dataclasses.replace(CFG, remat=r) for r in ("none", remat))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=4e-6 * np.abs(b).max()
        ),
        gradients(params(), cfg, *pack(A, B, C)),
        gradients(params(), plain, *pack(A, B, C)),
    )


@pytest.mark.parametrize(("remat", "again"), [("none", 0), ("dots", 0), ("full", 1)])
def test_self_attention_is_never_computed_again(monkeypatch, remat, again):
    """Forward: the refiner's, self- and cross-attention; again at most the last."""

    def marked(*inputs):
        out, lse = xla_flash.forward(*inputs)
        mark = jnp.cbrt(lse)  # nothing else computes one
        return out + mark[..., None], mark

    engine = Engine(marked, xla_flash.backward)
    monkeypatch.setattr("soraxla.ops.attention.ENGINES", {"cpu": engine})
    cfg = dataclasses.replace(CFG, remat=remat)
    x, t, batch, condition_t = pack(A, B, C)

    def loss(params):
        return jnp.sum(dit.apply(params, cfg, x, t, batch, condition_t))

    text = jax.jit(jax.grad(loss)).lower(params()).as_text()
    assert text.count("stablehlo.cbrt") == 3 + again


def test_adapters_beside_kernels_predict_what_merged_ones_do():
    """Of every layer: in the scan, in the refiner, in the head, of the time."""
    settings = LoRAConfig(rank=3, alpha=4.5, targets=("*",))
    shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), params(), settings))
    rng = np.random.default_rng(3)
    adapters = jax.tree.map(
        lambda a: np.float32(0.3 * rng.normal(size=a.shape)), shapes
    )
    row = pack(A, B, C)
    expected = run(lora.merge(params(), adapters, settings), CFG, *row)
    x, t, batch, condition_t = row
    found = jit(
        lambda adapters: dit.apply(params(), CFG, x, t, batch, condition_t, adapters)
    )(lora.scaled(adapters, settings))
    assert np.abs(expected - run(params(), CFG, *row)).max() > 1.0
    atol = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_parameters_as_computed_predict_the_same_to_the_bit():
    cfg = dataclasses.replace(CFG, dtype="bfloat16")
    rounded = dit.cast_kernels(params(), cfg)
    row = pack(A, B, C)
    np.testing.assert_array_equal(run(rounded, cfg, *row), run(params(), cfg, *row))
    kept = {
        name
        for name, leaf in named_leaves(rounded).items()
        if name.endswith("kernel") and leaf.dtype != jnp.bfloat16
    }
    assert kept == {f"time_{x}.kernel" for x in ("in", "out", "proj")}


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


def _wan(text_pad_to):
    return dataclasses.replace(CFG, text_refiner_layers=0, text_pad_to=text_pad_to)


def test_one_pad_token_is_all_the_pads():
    """Segments of 3, 1 and 12 words padded to 12: 9, 11 and no pad tokens each."""
    full = clip(3, 2, 12)
    weights = random_params(_wan(12))
    short = run(weights, _wan(12), *pack(A, B, full, text_length=36))
    padded = [
        {**c, "text": np.pad(c["text"], ((0, 12 - len(c["text"])), (0, 0)))}
        for c in (A, B, full)
    ]
    real = run(weights, _wan(None), *pack(*padded, text_length=36))
    np.testing.assert_allclose(short, real, rtol=0, atol=4e-6)
    unpadded = run(weights, _wan(None), *pack(A, B, full, text_length=36))
    assert np.abs(unpadded - short)[0, :10].max() > 1e-2


def test_the_known_mask_says_nothing_at_the_start():
    """Its embedding starts at 0; what is left of a known token is its time."""
    assert np.all(start()["known_embed"] == 0.0)
    unknown = {**params(), "known_embed": np.zeros(CFG.width, np.float32)}
    x, t, batch, _ = pack(A, B, C)
    nobody = batch._replace(condition_mask=np.zeros_like(batch.condition_mask))
    out = run(unknown, CFG, x, t, batch, t)
    np.testing.assert_array_equal(out, run(unknown, CFG, x, t, nobody, t))
    # Once it has learnt, it is known tokens it speaks of.
    np.testing.assert_array_equal(out, run(params(), CFG, x, t, nobody, t))
    assert np.any(run(params(), CFG, x, t, batch, t) != out)


def test_the_first_prediction_is_zero_and_learns_at_once():
    """After one step nothing waits behind a zero but what stands behind a shut gate."""
    row = pack(A, B, C)
    for cfg in (CFG, TOLD):  # which has all that the others have
        assert np.all(np.asarray(run(start(cfg), cfg, *row)) == 0.0)
    grad = gradients(start(), CFG, *row)[0]
    assert np.any(grad["head"]["kernel"] != 0.0)
    moved = {"head": jax.tree.map(lambda p, g: p - g, start()["head"], grad["head"])}
    grad = gradients({**start(), **moved}, CFG, *row)[0]
    for name in ("time_proj", "patch_embed", "known_embed", "text_embed"):
        assert any(np.any(g != 0.0) for g in jax.tree.leaves(grad[name])), name
    assert np.all(np.any(grad["blocks"]["table"][:, (2, 5)] != 0.0, axis=-1))


def test_bf16_follows_fp32_and_answers_in_fp32():
    """bf16 keeps 8 bits; 2 layers of O(1) activations stay within a few roundings."""
    cfg = dataclasses.replace(CFG, dtype="bfloat16")
    full = np.asarray(run(params(), CFG, *pack(A, B, C)))
    half = np.asarray(run(params(), cfg, *pack(A, B, C)))
    assert half.dtype == np.float32
    assert np.sqrt(np.mean((half - full)[0, :12] ** 2)) < 0.03 * full.std()


def test_inputs_of_another_model_are_refused():
    x, t, batch, _ = pack(A)
    with pytest.raises(ValueError, match="token width is 4, expected 8"):
        dit.apply(params(), CFG, x[..., :4], t, batch)
    with pytest.raises(ValueError, match="text width is 3, expected 6"):
        dit.apply(params(), CFG, x, t, batch._replace(text=batch.text[..., :3]))


def test_sizes_are_those_they_are_named_after():
    def count(size):
        shapes = jax.eval_shape(lambda: dit.init(jax.random.key(0), SIZES[size]))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    # Wan2.1-T2V-1.3B has 1,418,996,800 parameters; ours has a known-mask embedding.
    assert count("wan_1_3b") == 1_418_996_800 + 1536
    assert 5e6 < count("xs") < 1.2e7
    assert SIZES["wan_14b"].head_dim == SIZES["l"].head_dim == 128


@pytest.mark.parametrize(
    ("size", "settings", "message"),
    [
        ("xx", {}, "unknown DiT size 'xx': did you mean 'xs'"),
        ("xs", {"layer": 3}, "unknown DiT setting 'layer': did you mean 'layers'"),
        ("xs", {"heads": 3}, "256 with 3 heads"),
        ("xs", {"layers": 0}, "layers is 0"),
        ("xs", {"local_width": 0}, "local_width is 0: expected ≥ 1"),
        ("xs", {"forecast_layers": -1}, "forecast_layers is -1: expected ≥ 0"),
        ("wan_14b", {"text_refiner_layers": 1}, "text_pad_to=512"),
        ("xs", {"shift": -1.0}, "shift -1.0"),
    ],
)
def test_settings_that_make_no_model_are_refused(size, settings, message):
    with pytest.raises(ValueError, match=message):
        dit_config(size, **settings)


@pytest.mark.parametrize("text_pad_to", [None, 8])
def test_a_text_encoded_once_is_the_text(text_pad_to):
    """With and without pads, whose bias comes along; `batch.text` is then not read."""
    cfg = _wan(text_pad_to) if text_pad_to else CFG
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


@pytest.mark.parametrize("position_embed", [True, False])
def test_only_the_position_embedding_tells_a_place_from_another(position_embed):
    cfg = dataclasses.replace(CFG, position_embed=position_embed)
    moved = {**A, "positions": A["positions"] + [3, 1, 2]}
    here, there = (
        run(random_params(cfg), cfg, *pack(clip))[0, : len(A["x"])]
        for clip in (A, moved)
    )
    difference = np.max(np.abs(here - there))
    assert difference > 0.1 if position_embed else difference < 1e-4

"""Additions to the training of a transformer: routing and predicted features."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.checkpoints.training_folder import restore_part
from soraxla.core.errors import UserError
from soraxla.diffusion.loss import packed_cosine
from soraxla.models import dit
from soraxla.models.dit.flops import train_flops
from soraxla.models.dit.layers import Context
from soraxla.models.dit.lora import LoRAConfig
from soraxla.packing.conditioning import ConditioningMixture, Stored
from soraxla.packing.pack import Segment, pack
from soraxla.parallel.mesh import (
    PACKED_AXES,
    MeshConfig,
    make_mesh,
    one_device,
    put_rows,
    put_tree,
)
from soraxla.training import dit_step as steps
from soraxla.training import routing as routes
from soraxla.training.dit_step import dit_init, dit_step
from soraxla.training.features import AlignmentConfig, SelfFlowConfig
from soraxla.training.heads import HEADS, init_head, state_rules, without_heads
from soraxla.training.objective import (
    Inputs,
    Weights,
    forward,
    fresh_heads,
    objective,
    second_times,
)
from soraxla.training.routing import RoutingConfig, choose_route, route_length
from soraxla.training.saving import Checkpoints
from soraxla.training.state import create
from soraxla.training.step_flops import step_flops
from tests import tiny
from tests.packing.test_schedule import make_index
from tests.training import mesh_run

MODEL = replace(mesh_run.CFG.model, layers=4, remat="none", text_refiner_layers=0)
PLAIN = replace(mesh_run.CFG, model=MODEL)
ROUTING = RoutingConfig(share=0.5, first=1, last=1)
ROUTED = replace(PLAIN, routing=ROUTING)
ALL = replace(
    ROUTED,
    self_flow=SelfFlowConfig(student=0.5, teacher=0.75),
    alignment=AlignmentConfig(depth=0.25, width=5),
)
SPEC = replace(mesh_run.SPEC, row_length=32)


def clip(tokens, visit, conditions=0):
    rng = np.random.default_rng(visit)
    return Segment(
        tokens=rng.normal(size=(tokens, 16)).astype(np.float32),
        positions=rng.integers(0, 6, size=(tokens, 3)).astype(np.float32),
        text=rng.normal(size=(2, 8)).astype(np.float32),
        visit=visit,
        shift=1.0,
        condition_mask=np.arange(tokens) < conditions,
        features=rng.normal(size=(tokens, 5)).astype(np.float32),
    )


A, B, C = clip(11, 5), clip(12, 9, conditions=4), clip(7, 1 << 31)
ROWS = ([[A, B], [C]], [[C, B], [A]], [[A], [B, C]])


@tiny.quick
def route_of(batch):
    return choose_route(3, batch, ROUTING)


@pytest.fixture(scope="module")
def params():
    """Random weights, and those of heads."""
    shapes = jax.eval_shape(functools.partial(dit_init, ALL)).params
    return tiny.random_like(shapes)


def of_clips(array, batch):
    """Returns the tokens of an array by visit."""
    found = {}
    for row, ids, visits in zip(array, batch.segment_ids, batch.visit, strict=True):
        for i in range(1, ids.max() + 1):
            found[int(visits[i - 1])] = np.asarray(row)[ids == i]
    return found


# --- Routing ----------------------------------------------------------------------


def test_a_visit_skips_the_same_tokens_in_any_row():
    """Half of the generated tokens, rounded down; no condition token; ids ascend."""
    first: Any = None
    for rows in ROWS:
        route = route_of(batch := pack(rows, SPEC))
        computed = of_clips(np.asarray(route.computed), batch)
        first = computed if first is None else first
        for visit, found in computed.items():
            np.testing.assert_array_equal(found, first[visit])
        ids = np.take_along_axis(batch.segment_ids, np.asarray(route.order), axis=1)
        for row, kept in zip(ids, np.asarray(route.kept), strict=True):
            assert (row[:kept] > 0).all() and (np.diff(row[:kept]) >= 0).all()
    assert {v: int((~x).sum()) for v, x in first.items()} == {5: 5, 9: 4, 1 << 31: 3}
    assert first[9][:4].all()
    batch = pack([[replace(A, visit=6), B], [C]], SPEC)
    again = of_clips(np.asarray(route_of(batch).computed), batch)
    assert (again[6] != first[5]).any()


def test_tokens_that_leave_the_route_are_where_they_were():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 3)), jnp.float32)
    route = route_of(pack(ROWS[0], SPEC))

    np.testing.assert_array_equal(routes.leave(routes.enter(x, route), route), x)
    grad = jax.grad(lambda y: jnp.sum(routes.enter(y, route) * x))(x)
    np.testing.assert_array_equal(grad, routes.leave(x, route))


def test_middle_blocks_compute_a_shorter_row(monkeypatch):
    lengths, length = [], 20

    def run_blocks(params, cfg, x, ctx, layers, adapters=None):
        lengths.append((layers, x.shape[1], ctx.segment_ids.shape[1]))
        return x

    monkeypatch.setattr(dit, "run_blocks", run_blocks)
    batch = pack(ROWS[0], SPEC)
    made = functools.partial(objective, cfg=ROUTED, length=length)
    shapes = jax.eval_shape(functools.partial(dit_init, ROUTED)).params
    t = jnp.zeros(batch.visit.shape)
    jax.eval_shape(made, Weights(shapes), Weights(shapes), None, batch, t, t)
    short, whole = (range(1, 3), 20, 20), (range(1, 3), 32, 32)
    # Whole rows are for a batch in which one keeps too many.
    assert lengths == [(range(0, 1), 32, 32), short, whole, (range(3, 4), 32, 32)]


def test_the_length_of_a_shorter_row_is_of_the_least_work():
    """Half of 16 pictures of 64 tokens, of which each row has at most 15 or so."""
    spec = replace(SPEC, row_length=1024, max_segments=16, text_length=64)
    index = make_index([64] * 40, text=4)
    made = functools.partial(route_length, index, spec, ROUTING, seed=0)
    assert made(rows=4) == 512
    assert made(rows=4, parts=192) == 576
    # One in ten visits has a hole, and is not known to skip.
    mixture = ConditioningMixture(none=0.97, spatial=0.03)
    holes = replace(index, stored=Stored(*([np.ones(40, np.int32)] * 3)))
    spec = replace(spec, mixture=mixture)
    made = functools.partial(route_length, holes, spec, ROUTING, seed=0)
    assert 512 < made(rows=1) < made(rows=32) < 1024


def test_flops_fall_with_routing():
    """Two of four blocks compute half of the tokens, and a quarter of their pairs."""
    tokens, text = [2000, 1000], [10, 20]
    plain = step_flops(PLAIN, tokens, tokens, text)
    assert plain == train_flops(MODEL, tokens, text)
    routed = step_flops(ROUTED, tokens, [1000, 500], text)
    assert 0.6 < routed / plain < 0.7
    taught = step_flops(ALL, tokens, tokens, text) / plain
    assert 1.2 < taught < 1.35


def losses(weights, heads, batch, cfg, length):
    """Returns the loss of rows and its parts, by name."""
    t = jnp.where(batch.visit == 5, 0.8, jnp.where(batch.visit == 9, 0.4, 0.6))
    total, (weight, parts) = objective(
        *(weights, weights, heads, batch, t, 0.1 * t), cfg=cfg, length=length
    )
    return {"total": total / weight} | {k: v / weight for k, v in parts.items()}


compiled = tiny.quick(losses, static_argnames=("cfg", "length"))


def check_packing(run):
    """The loss depends neither on rows nor on whether a shorter one is computed."""
    expected: Any = None
    for rows in ROWS:  # of which the first keep more tokens than a shorter row has
        found = run(batch=pack(rows, SPEC), length=13)
        expected = expected or found
        assert 0.05 < found["self_flow"] < 2.0
        assert 0.05 < found["alignment"] < 2.0
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=3e-6)
    again = run(batch=pack([[replace(A, visit=6), B], [C]], SPEC), length=13)
    assert abs(again["self_flow"] - expected["self_flow"]) > 1e-4


@pytest.mark.slow
def test_the_losses_do_not_depend_on_how_clips_are_packed(monkeypatch):
    """Blocks that mix the tokens of a clip show which ones were computed together."""

    def embed(params, cfg, x, t, batch, condition_t, adapters=None, second=None):
        own = jnp.asarray(batch.positions)
        ids = jnp.asarray(batch.segment_ids)
        late = 0.0 if second is None else second[1][:, :, None] * 1.0
        x = jnp.asarray(x) + jnp.take_along_axis(t, ids - 1, axis=1)[:, :, None] + late
        ctx: Any = Context(ids, own, own, own, ids, None, ids, None, None, None)
        return x, ctx, None

    def run_blocks(params, cfg, x, ctx, layers, adapters=None):
        ids = ctx.segment_ids
        same = (ids[:, :, None] == ids[:, None, :]) & (ids > 0)[:, None, :]
        share = same / jnp.maximum(same.sum(-1, keepdims=True), 1)
        for layer in layers:
            mean = jnp.einsum("blm,bmd->bld", share, x + ctx.cos.mean(-1)[:, :, None])
            x = jnp.tanh((1.1 + layer / 9) * x + params * mean)
        return x

    monkeypatch.setattr(dit, "embed", embed)
    monkeypatch.setattr(dit, "run_blocks", run_blocks)
    monkeypatch.setattr(dit, "unembed", lambda params, cfg, x, *_: x)
    head = init_head(jax.random.key(0), 16, 16)
    run = jax.jit(functools.partial(losses, cfg=ALL), static_argnames="length")
    check_packing(
        functools.partial(
            run,
            Weights(jnp.float32(0.7)),
            {"self_flow": head, "alignment": init_head(jax.random.key(1), 16, 5)},
        )
    )


@pytest.mark.slow
def test_the_real_losses_do_not_depend_on_how_clips_are_packed(params):
    weights, heads = Weights(without_heads(params)), params[HEADS]
    check_packing(functools.partial(compiled, weights, heads, cfg=ALL))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 2, "context": 4}], ids=str
)
def test_every_axis_gives_the_losses_and_gradient_of_one_device(params, mesh):
    batch = pack([*ROWS[0], *ROWS[1], *ROWS[2], [A], [B]], SPEC)

    def loss(params, batch):
        weights = Weights(without_heads(params))
        found = losses(weights, params[HEADS], batch, ALL, 20)
        return found["total"], found

    def run(mesh):
        placed = put_tree(jax.tree.map(np.asarray, params), state_rules(ALL), mesh)
        with jax.set_mesh(mesh):
            made = tiny.quick(jax.value_and_grad(loss, has_aux=True))
            return made(placed, put_rows(batch, PACKED_AXES, mesh))

    one, other = run(one_device()), run(make_mesh(MeshConfig(**mesh)))
    atol = 1e-5 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[1]))
    for a, b in zip(*map(jax.tree.leaves, (one[0], other[0])), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (one[1], other[1])), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=atol)


@pytest.mark.slow
def test_blocks_in_parts_are_those_of_the_whole_model(params):
    """The prediction is that of `apply`, and the tokens those of `capture`."""
    batch, weights = pack(ROWS[0], SPEC), without_heads(params)
    t = jnp.full(batch.visit.shape, 0.4)

    def both(params, batch, t):
        x = batch.latents
        inputs = Inputs(x, t, batch, 0.1 * t)
        parts = forward(Weights(params), inputs, PLAIN, None, [1, 3])
        return parts, dit.capture(params, MODEL, x, t, batch, 0.1 * t)

    (pred, found), (whole, inside) = tiny.quick(both)(weights, batch, t)
    np.testing.assert_allclose(pred, whole, rtol=0, atol=1e-5)
    assert float(jnp.abs(pred).max()) > 0.1
    for blocks in (1, 3):
        tokens = inside["blocks"][blocks - 1]
        np.testing.assert_allclose(found[blocks][0], tokens, rtol=0, atol=1e-5)


# --- Predicted features -----------------------------------------------------------


def test_the_second_time_is_of_some_generated_tokens_in_any_row():
    first: Any = None
    second = tiny.quick(functools.partial(second_times, cfg=ALL))
    for rows in ROWS:
        batch = pack(rows, SPEC)
        times, tokens = second(batch)
        found = of_clips(np.asarray(tokens), batch)
        places = np.argwhere(batch.visit > 0)
        found |= {-int(batch.visit[i, j]): times[i, j] for i, j in places}
        first = found if first is None else first
        for visit in found.keys() & first.keys():
            np.testing.assert_array_equal(found[visit], first[visit])
    pairs = [[[clip(32, 2 * v, 8)], [clip(32, 2 * v + 1, 8)]] for v in range(16)]
    tokens = np.concatenate([second(pack(rows, SPEC))[1] for rows in pairs])
    assert not tokens[:, :8].any()
    assert 0.2 < tokens[:, 8:].mean() < 0.3  # the share is 0.25


def test_a_clips_cosine_weighs_the_root_of_its_generated_tokens():
    batch = pack([[A, B], [C]], SPEC)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 5)), jnp.float32)
    counted = np.asarray(batch.token_index % 2 == 0)
    loss = tiny.quick(packed_cosine)
    assert loss(x, 3.0 * x, batch, counted) < 1e-5
    n = 2 * np.sqrt([11, 8, 7]).sum()  # four of B are condition tokens
    np.testing.assert_allclose(loss(x, -x, batch, counted), n, rtol=1e-5)


def test_a_plain_training_is_as_it_was(monkeypatch):
    """No head is made, and only the plain error is computed."""
    monkeypatch.setattr(steps, "objective", None)

    def error(params, batch, *_, **__):
        return jnp.sum(params["w"]), jnp.float32(1.0)

    monkeypatch.setattr(steps, "dit_error", error)
    state = create({"w": jnp.ones(3)}, PLAIN.optim, {})
    made = functools.partial(dit_step, cfg=PLAIN)
    _, metrics = jax.eval_shape(made, state, pack(ROWS[0], SPEC))
    assert "self_flow" not in metrics
    assert fresh_heads(jax.random.key(0), PLAIN) == {}


@pytest.mark.slow
def test_adapters_are_trained_with_all():
    """The step moves them, and the heads; the base has no gradient."""
    cfg = replace(ALL, lora=LoRAConfig(rank=2))
    base = tiny.random_like(jax.eval_shape(functools.partial(dit_init, PLAIN)).params)
    state = tiny.quick(functools.partial(dit_init, cfg))()
    step = tiny.quick(functools.partial(dit_step, cfg=cfg, route_length=20))
    after, metrics = step(state, pack(ROWS[0], SPEC), base)
    assert metrics["self_flow"] > 0 and metrics["alignment"] > 0
    moved = jax.tree.map(jnp.subtract, after.params, state.params)
    assert min(float(jnp.abs(x).max()) for x in jax.tree.leaves(moved[HEADS])) > 0
    adapter = moved["blocks"]["self_attn"]["q"]
    assert float(jnp.abs(adapter["b"]).max()) > 0


@pytest.mark.slow
def test_a_restored_training_goes_on_to_the_bit(tmp_path):
    """Its checkpoint holds the heads; readers of the EMA leave them out."""
    state = tiny.quick(functools.partial(dit_init, ALL))()
    step = tiny.quick(functools.partial(dit_step, cfg=ALL, route_length=20))
    batches = [pack(rows, SPEC) for rows in ROWS[:2]]
    state, _ = step(state, batches[0])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    restored, _ = checkpoints.restore(abstract)
    checkpoints.close()
    (one, found), (other, again) = step(state, batches[1]), step(restored, batches[1])
    for name in ("self_flow", "alignment"):
        assert found[name] == again[name] > 0
    moved = jax.tree.map(jnp.subtract, one.params, state.params)
    assert min(float(jnp.abs(x).max()) for x in jax.tree.leaves(moved[HEADS])) > 0
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)
    shapes = jax.eval_shape(lambda: dit.init(jax.random.key(0), MODEL))
    ema = restore_part(tmp_path, {"ema": shapes}, dit.RULES)["ema"]
    assert HEADS not in ema
    for a, b in zip(
        *map(jax.tree.leaves, (ema, without_heads(state.ema))), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: RoutingConfig(share=1.0), "routing.share is 1.0, expected above 0"),
        (lambda: RoutingConfig(first=-1), "routing.first is -1, expected at least 0"),
        (
            lambda: replace(PLAIN, routing=RoutingConfig()),
            "leaves 2 blocks before the route and 4 after it, but step.model.layers",
        ),
        (lambda: AlignmentConfig(weight=0.0), "alignment.weight is 0.0, expected a nu"),
        (lambda: AlignmentConfig(depth=1.0), "alignment.depth is 1.0, expected above"),
        (lambda: SelfFlowConfig(weight=0.0), "self_flow.weight is 0.0, expected a num"),
        (lambda: SelfFlowConfig(share=0.0), "self_flow.share is 0.0, expected above 0"),
        (
            lambda: replace(PLAIN, self_flow=SelfFlowConfig(student=0.7)),
            "are blocks 3 and 3 of 4: raise teacher or lower student",
        ),
    ],
)
def test_wrong_settings_are_refused(made, words):
    with pytest.raises(UserError, match=words):
        made()

"""The objective of a training with additions: routing and predicted features.

A training without them has `dit_error` of `dit_step.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.loss import packed_cosine, packed_mse
from soraxla.diffusion.noise_schedule import sample_times
from soraxla.diffusion.process import (
    Purpose,
    noise,
    sample_keys,
    token_bits,
    token_times,
)
from soraxla.models import dit
from soraxla.training.dit_step_config import DiTStepConfig
from soraxla.training.features import block_at
from soraxla.training.heads import HEADS, apply_head, init_head
from soraxla.training.routing import (
    Route,
    choose_route,
    consecutive,
    enter,
    leave,
    middle_blocks,
)

SELF_FLOW, ALIGNMENT = "self_flow", "alignment"  # the names of heads


class Weights(NamedTuple):
    """A model's parameters, and its adapters or None."""

    params: PyTree
    adapters: PyTree = None


class Inputs(NamedTuple):
    """The network's inputs, see `dit.embed`."""

    x: Float[Array, "b l p"]
    t: Float[Array, "b s"]
    batch: PackedBatch
    condition_t: Float[Array, "b s"]
    second: tuple[Float[Array, "b s"], Bool[Array, "b l"]] | None = None


def objective(
    student: Weights,
    teacher: Weights,
    heads: PyTree,
    batch: PackedBatch,
    t_BS: Float[Array, "b s"],
    condition_t_BS: Float[Array, "b s"],
    *,
    cfg: DiTStepConfig,
    length: int | None = None,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], dict[str, Array]]]:
    """Returns (sum, (weight, parts)): sum / weight is the loss to minimise.

    Each of the parts, divided by the weight, is a metric: `loss`, the prediction's
    error as in `dit_error`, and the loss of each head. Neither depends on how clips are
    packed.

    Args:
        teacher: the EMA's weights, which are constant here.
        heads: parameters of the heads, by name.
        length: the tokens of a shorter row, see `route_length`; None is all.
    """
    process, model = cfg.process, cfg.model
    t_BS = jnp.minimum(t_BS, process.max_time)
    second = second_times(batch, cfg) if cfg.self_flow else None
    route = choose_route(cfg.seed, batch, cfg.routing) if cfg.routing else None
    stops = {}
    if cfg.self_flow is not None:
        stops[SELF_FLOW] = block_at(cfg.self_flow.student, model.layers)
    if cfg.alignment is not None:
        stops[ALIGNMENT] = block_at(cfg.alignment.depth, model.layers)
    x0, eps = jnp.asarray(batch.latents, jnp.float32), noise_of(batch, cfg)
    t_BL = levels(batch, t_BS, condition_t_BS, second)
    inputs = Inputs(process.corrupt(x0, eps, t_BL), t_BS, batch, condition_t_BS, second)
    pred, found = forward(
        student, inputs, cfg, route, list(stops.values()), length=length
    )
    target = process.target(x0, eps, t_BL)
    total, weight = packed_mse(pred, target, batch, process.loss_weight(t_BL))
    parts, wanted = {"loss": total}, {}
    if second is not None:
        t_BS = jnp.minimum(t_BS, second[0])
        cleaner = process.corrupt(x0, eps, levels(batch, t_BS, condition_t_BS))
        seen = Inputs(cleaner, t_BS, batch, condition_t_BS)
        wanted[SELF_FLOW] = teacher_features(teacher, seen, cfg)
    if cfg.alignment is not None:
        wanted[ALIGNMENT] = jnp.asarray(batch.features)
    for name, target in wanted.items():
        tokens, counted = found[stops[name]]
        if name == ALIGNMENT:  # the features of condition tokens may not be stored
            counted = counted & jnp.logical_not(batch.condition_mask)
        predicted = apply_head(heads[name], tokens, model)
        parts[name] = packed_cosine(predicted, target, batch, counted)
        total = total + getattr(cfg, name).weight * parts[name]
    return total, (weight, parts)


def noise_of(batch: PackedBatch, cfg: DiTStepConfig) -> Float[Array, "b l p"]:
    """Returns the training noise of every token."""
    place = (cfg.seed, batch.visit, batch.segment_ids, batch.token_index)
    return noise(*place, batch.latents.shape[-1], purpose=Purpose.NOISE)


def levels(
    batch: PackedBatch,
    t_BS: Float[Array, "b s"],
    condition_t_BS: Float[Array, "b s"],
    second: tuple[Float[Array, "b s"], Bool[Array, "b l"]] | None = None,
) -> Float[Array, "b l"]:
    """Returns the time of every token."""
    times = [t_BS, condition_t_BS, *(second or ())[:1]]
    t, condition_t, *late = (token_times(x, batch.segment_ids) for x in times)
    if second is not None:
        t = jnp.where(second[1], late[0], t)
    return jnp.where(batch.condition_mask, condition_t, t)


def fresh_heads(key: PRNGKeyArray, cfg: DiTStepConfig) -> dict[str, PyTree]:
    """Returns the node of the heads for new parameters; nothing without heads."""
    width, heads = cfg.model.width, {}
    if cfg.self_flow is not None:
        heads[SELF_FLOW] = init_head(jax.random.fold_in(key, 1), width, width)
    if cfg.alignment is not None:
        key = jax.random.fold_in(key, 2)
        heads[ALIGNMENT] = init_head(key, width, cfg.alignment.width)
    return {HEADS: heads} if heads else {}


def second_times(
    batch: PackedBatch, cfg: DiTStepConfig
) -> tuple[Float[Array, "b s"], Bool[Array, "b l"]]:
    """Returns another time of each visit, and the generated tokens that have it."""
    assert cfg.self_flow is not None
    keys = sample_keys(cfg.seed, Purpose.SECOND_TIME, batch.visit)
    s_BS = jnp.minimum(sample_times(keys, batch.shift), cfg.process.max_time)
    place = (cfg.seed, batch.visit, batch.segment_ids, batch.token_index)
    bits = token_bits(*place, purpose=Purpose.SECOND_TOKENS)
    chosen = bits < jnp.uint32(round(cfg.self_flow.share * 2**32))
    generated = (batch.segment_ids > 0) & jnp.logical_not(batch.condition_mask)
    return s_BS, chosen & generated


def forward(
    weights: Weights,
    inputs: Inputs,
    cfg: DiTStepConfig,
    route: Route | None,
    stops: Sequence[int],
    *,
    length: int | None = None,
) -> tuple[Float[Array, "b l p"], dict[int, tuple[Array, Array]]]:
    """Returns the prediction, and the features after the blocks that `stops` names.

    Features are tokens (B,L,D), with a mask (B,L) of those that have passed all blocks
    so far.

    Args:
        stops: the numbers of blocks before each of the features.
        length: see `objective`.
    """
    (params, adapters), model = weights, cfg.model
    x, ctx, e = dit.embed(
        params, model, *inputs[:4], adapters=adapters, second=inputs.second
    )
    middle, edges = range(0), list(stops)
    if route is not None and cfg.routing is not None:
        middle = cfg.routing.middle(model.layers)
        edges += middle.start, middle.stop
    found = {}
    for part in consecutive(model.layers, edges):
        if route is None or part.start not in middle:
            x = dit.run_blocks(params, model, x, ctx, part, adapters)
            found[part.stop] = x, ctx.segment_ids > 0
            continue
        # Between stops on the route, tokens leave it and enter it again.
        most = x.shape[1] if length is None else length
        x = enter(x, route)
        x = middle_blocks(params, model, x, ctx, part, route, most, adapters)
        x = leave(x, route)
        found[part.stop] = x, route.computed
    return dit.unembed(params, model, x, ctx, e, inputs.x, adapters), found


def teacher_features(
    weights: Weights, inputs: Inputs, cfg: DiTStepConfig
) -> Float[Array, "b l d"]:
    """Returns the tokens after Self-Flow's deeper block, as constants."""
    assert cfg.self_flow is not None
    (params, adapters), model = weights, cfg.model
    blocks = block_at(cfg.self_flow.teacher, model.layers)
    x, ctx, _ = dit.embed(params, model, *inputs[:4], adapters=adapters)
    x = dit.run_blocks(params, model, x, ctx, range(blocks), adapters)
    return jax.lax.stop_gradient(x)

"""The training step of the diffusion transformer, a pure function of (state, batch)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.loss import packed_mse
from soraxla.diffusion.noise_schedule import sample_times
from soraxla.diffusion.process import (
    Purpose,
    noise,
    sample_keys,
    token_times,
)
from soraxla.models import dit
from soraxla.models.dit import lora
from soraxla.parallel.mesh import PACKED_AXES, LogicalAxes, constrain
from soraxla.training.dit_step_config import DiTStepConfig
from soraxla.training.heads import HEADS, without_heads
from soraxla.training.objective import Weights, fresh_heads, objective
from soraxla.training.state import Metrics, TrainState, create, init_key, update

# Condition tokens are trained at times up to this.
_CONDITION_NOISE = 0.1


def dit_init(cfg: DiTStepConfig) -> TrainState:
    """Returns fresh weights of the seed; with LoRA, fresh adapters of no effect."""
    key = init_key(cfg.seed)
    if cfg.lora is None:
        params = dit.init(key, cfg.model)
    else:
        shapes = jax.eval_shape(lambda: dit.init(key, cfg.model))
        params = lora.init(key, shapes, cfg.lora)
    return create(params | fresh_heads(key, cfg), cfg.optim, {})


def dit_step(
    state: TrainState,
    batch: PackedBatch,
    base: PyTree = None,
    *,
    cfg: DiTStepConfig,
    accumulate: int = 1,
    mean_weight: float | None = None,
    route_length: int | None = None,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and metrics.

    Noise and time are functions of (seed, visit), never of the step. The loss is the
    mean over the step's clips. The gradient of that mean is clipped and then multiplied
    by the weight of these clips over `mean_weight`, a constant: a clip has the same
    weight in the training whatever clips share its step.

    Args:
        base: the frozen parameters beside which adapters are trained; None without
            LoRA.
        accumulate: parts of the batch, computed one after the other with the memory of
            one; the loss and its gradient are those of the whole batch.
        mean_weight: Σ√n of a step's clips in the mean over steps, see `packed_mse`;
            None is the batch's own, for a step by itself.
        route_length: tokens of a row in blocks that tokens skip, see the function
            `route_length`; None is all of the row.
    """
    keys_BS = sample_keys(cfg.seed, Purpose.TIME, batch.visit)
    t_BS = sample_times(keys_BS, batch.shift)
    keys_BS = sample_keys(cfg.seed, Purpose.CONDITION, batch.visit)
    condition_t_BS = _CONDITION_NOISE * jax.vmap(jax.vmap(jax.random.uniform))(keys_BS)

    def error(trained: PyTree, *rows: PyTree) -> tuple[Array, tuple[Array, Metrics]]:
        return _error(trained, state.ema, base, *rows, cfg=cfg, length=route_length)

    def sums(*rows: PyTree) -> PyTree:
        return jax.value_and_grad(error, has_aux=True)(state.params, *rows)

    (total, (weight, parts)), grads = _sum_of_parts(
        sums,
        (batch, t_BS, condition_t_BS),
        (PACKED_AXES, ("batch", None), ("batch", None)),
        accumulate,
    )
    weight = jnp.maximum(weight, 1e-9)
    loss, grads = jax.tree.map(lambda x: x / weight, (total, grads))
    of_step = 1.0 if mean_weight is None else weight / mean_weight
    state, metrics = update(state, loss, grads, {}, cfg.optim, of_step)
    metrics |= {name: part / weight for name, part in parts.items()}
    return state, {**metrics, "tokens": jnp.sum(batch.segment_ids > 0)}


def _error(
    trained: PyTree,
    ema: PyTree,
    base: PyTree,
    *rows: PyTree,
    cfg: DiTStepConfig,
    length: int | None,
) -> tuple[Array, tuple[Array, Metrics]]:
    """Returns the result of `objective` for what a configuration trains."""

    def weights(trained: PyTree) -> Weights:
        trained = without_heads(trained)
        if cfg.lora is None:
            return Weights(trained)
        return Weights(base, lora.scaled(trained, cfg.lora))

    if not cfg.plain:
        heads = trained.get(HEADS)
        inputs = (weights(trained), weights(ema), heads, *rows)
        return objective(*inputs, cfg=cfg, length=length)
    params, adapters = weights(trained)
    if cfg.part == "forecast":
        total, weight = forecast_error(params, *rows, cfg=cfg)
    else:
        total, weight = dit_error(
            params, *rows, cfg=cfg, purpose=Purpose.NOISE, adapters=adapters
        )
    return total, (weight, {})


def dit_error(
    params: PyTree,
    batch: PackedBatch,
    t_BS: Float[Array, "b s"],
    condition_t_BS: Float[Array, "b s"] | None = None,
    *,
    cfg: DiTStepConfig,
    purpose: Purpose,
    adapters: PyTree = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the two sums whose ratio is the loss (`packed_mse`), at times `t_BS`.

    Condition tokens are noised to a separate time (0 if None), so that a sampler may
    condition on its own frames, which are never quite clean.
    """
    process = cfg.process
    t_BS = jnp.minimum(t_BS, process.max_time)
    condition_t_BS = jnp.zeros_like(t_BS) if condition_t_BS is None else condition_t_BS
    x0_BLP = jnp.asarray(batch.latents, jnp.float32)
    eps_BLP = _noise_of(batch, cfg, purpose)
    t_BL, condition_t_BL = (
        token_times(t, batch.segment_ids) for t in (t_BS, condition_t_BS)
    )
    t_BL = jnp.where(batch.condition_mask, condition_t_BL, t_BL)
    x_BLP = process.corrupt(x0_BLP, eps_BLP, t_BL)
    pred_BLP = dit.apply(
        params, cfg.model, x_BLP, t_BS, batch, condition_t_BS, adapters=adapters
    )
    target_BLP = process.target(x0_BLP, eps_BLP, t_BL)
    return packed_mse(pred_BLP, target_BLP, batch, process.loss_weight(t_BL))


def forecast_error(
    params: PyTree,
    batch: PackedBatch,
    _: Float[Array, "b s"],
    condition_t_BS: Float[Array, "b s"],
    *,
    cfg: DiTStepConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the same two sums, for forecasts from frames at the condition time."""
    t_BL = token_times(condition_t_BS, batch.segment_ids)
    x0_BLP = jnp.asarray(batch.latents, jnp.float32)
    eps_BLP = _noise_of(batch, cfg, Purpose.NOISE)
    x_BLP = cfg.process.corrupt(x0_BLP, eps_BLP, t_BL)
    pred_BLP = dit.forecast(params, cfg.model, x_BLP, t_BL, batch)
    return packed_mse(pred_BLP, x0_BLP, batch)


def _noise_of(
    batch: PackedBatch, cfg: DiTStepConfig, purpose: Purpose
) -> Float[Array, "b l p"]:
    ids, numbers = batch.segment_ids, batch.latents.shape[-1]
    return noise(
        cfg.seed, batch.visit, ids, batch.token_index, numbers, purpose=purpose
    )


def _sum_of_parts(
    function: Callable[..., PyTree], rows: PyTree, axes: PyTree, parts: int
) -> PyTree:
    """Returns Σ function(*part) over parts of the rows, one after the other.

    Part j has the rows j, j + parts, …. A device holds a range of rows, so a part has
    equally many rows of every device, and no row is sent to another.
    """
    if parts == 1:
        return function(*rows)

    def cut(x: Array, axes: LogicalAxes) -> Array:
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x, None, *axes)

    def add(sums: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, function(*part)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *rows)
    )
    return jax.lax.scan(add, zeros, jax.tree.map(cut, rows, axes))[0]

"""The training step of the diffusion transformer, a pure function of (state, batch)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from soraxla.core.errors import UserError
from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.loss import packed_mse
from soraxla.diffusion.noise_schedule import sample_times
from soraxla.diffusion.process import (
    Process,
    Purpose,
    noise,
    sample_keys,
    token_times,
)
from soraxla.models import dit
from soraxla.models.dit import lora
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.lora import LoRAConfig
from soraxla.parallel.mesh import PACKED_AXES, LogicalAxes, constrain
from soraxla.training.optim import OptimConfig
from soraxla.training.state import Metrics, TrainState, create, init_key, update

# Condition tokens are trained at times up to this.
_CONDITION_NOISE = 0.1


@dataclass(frozen=True, kw_only=True)
class DiTStepConfig:
    """Settings of a step of the diffusion transformer.

    Attributes:
        seed: seed of initial weights, sample order, noise and times.
        lora: adapters to train beside frozen weights; None trains the weights.
        part: "all" trains the model, "forecast" only its forecast layers. A forecast
            step costs a third and learns from every frame of a clip, from preceding
            frames that are noised up to time 0.1.
    """

    model: DiTConfig
    process: Process = field(default_factory=Process)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    lora: LoRAConfig | None = None
    part: Literal["all", "forecast"] = "all"

    def __post_init__(self) -> None:
        if self.part == "forecast" and (
            not self.model.forecast_layers or self.lora is not None
        ):
            raise UserError(
                "step.part is 'forecast', but the model has no forecast that could be "
                "trained: set step.model.forecast_layers, and leave step.lora out"
            )
        if self.part == "forecast" and self.optim.weight_decay:
            raise UserError(
                f"optim.weight_decay is {self.optim.weight_decay}, expected 0 where "
                "step.part is 'forecast': the rest is not trained, only shrunk"
            )
        if self.lora is not None and self.optim.muon_learning_rate is not None:
            raise UserError(
                "optim.muon_learning_rate is set, but step.lora trains no matrix of a "
                "block; leave one of them out"
            )


def dit_init(cfg: DiTStepConfig) -> TrainState:
    """Returns fresh weights of the seed; with LoRA, fresh adapters of no effect."""
    key = init_key(cfg.seed)
    if cfg.lora is None:
        return create(dit.init(key, cfg.model), cfg.optim, {})
    shapes = jax.eval_shape(lambda: dit.init(key, cfg.model))
    return create(lora.init(key, shapes, cfg.lora), cfg.optim, {})


def dit_step(
    state: TrainState,
    batch: PackedBatch,
    base: PyTree = None,
    *,
    cfg: DiTStepConfig,
    accumulate: int = 1,
    mean_weight: float | None = None,
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
    """
    keys_BS = sample_keys(cfg.seed, Purpose.TIME, batch.visit)
    t_BS = sample_times(keys_BS, batch.shift)
    keys_BS = sample_keys(cfg.seed, Purpose.CONDITION, batch.visit)
    condition_t_BS = _CONDITION_NOISE * jax.vmap(jax.vmap(jax.random.uniform))(keys_BS)

    def error(trained: PyTree, *rows: PyTree) -> tuple[Array, Array]:
        params, adapters = trained, None
        if cfg.lora is not None:
            params, adapters = base, lora.scaled(trained, cfg.lora)
        if cfg.part == "forecast":
            return forecast_error(params, *rows, cfg=cfg)
        return dit_error(
            params, *rows, cfg=cfg, purpose=Purpose.NOISE, adapters=adapters
        )

    def sums(*rows: PyTree) -> PyTree:
        return jax.value_and_grad(error, has_aux=True)(state.params, *rows)

    (total, weight), grads = _sum_of_parts(
        sums,
        (batch, t_BS, condition_t_BS),
        (PACKED_AXES, ("batch", None), ("batch", None)),
        accumulate,
    )
    weight = jnp.maximum(weight, 1e-9)
    loss, grads = jax.tree.map(lambda x: x / weight, (total, grads))
    of_step = 1.0 if mean_weight is None else weight / mean_weight
    state, metrics = update(state, loss, grads, {}, cfg.optim, of_step)
    return state, {**metrics, "tokens": jnp.sum(batch.segment_ids > 0)}


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

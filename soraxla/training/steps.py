"""One training step of each model: pure functions of (state, batch)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, PyTree, UInt8

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
from soraxla.models import dit, vae
from soraxla.models.dit import lora
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.lora import LoRAConfig
from soraxla.parallel.mesh import PACKED_AXES, LogicalAxes, constrain
from soraxla.training.optim import OptimConfig
from soraxla.training.state import Metrics, TrainState, create, update

# Condition tokens are trained at times up to this.
_CONDITION_NOISE = 0.1
_MOMENT_DECAY = 0.99  # of the VAE's latent statistics, a step


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


@dataclass(frozen=True, kw_only=True)
class VAEStepConfig:
    """Settings of a VAE step; the loss is L1 + kl_weight · KL, both means.

    A linear encoder and the moments of its latents stay constant, so that a transformer
    trained on such latents can use the decoder after it has learnt more.

    Attributes:
        kl_weight: weight of the KL divergence in the loss.
        seed: seed of initial weights, crops and latent noise.
    """

    model: vae.VAEConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    kl_weight: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.linear and self.optim.weight_decay:
            raise UserError(
                f"optim.weight_decay is {self.optim.weight_decay}, expected 0 for a "
                "linear VAE: its encoder is not trained, only shrunk"
            )


def _init_key(seed: int) -> PRNGKeyArray:
    # XLA's own generator: a hundred inlined Threefry streams take minutes to compile.
    return jax.random.key(seed, impl="rbg")


def dit_init(cfg: DiTStepConfig) -> TrainState:
    """Returns fresh weights of the seed; with LoRA, fresh adapters of no effect."""
    key = _init_key(cfg.seed)
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
    eps_BLP = _noise_of(batch, cfg, purpose)
    t_BL, condition_t_BL = (
        token_times(t, batch.segment_ids) for t in (t_BS, condition_t_BS)
    )
    t_BL = jnp.where(batch.condition_mask, condition_t_BL, t_BL)
    x_BLP = process.corrupt(batch.latents, eps_BLP, t_BL)
    pred_BLP = dit.apply(
        params, cfg.model, x_BLP, t_BS, batch, condition_t_BS, adapters=adapters
    )
    target_BLP = process.target(batch.latents, eps_BLP, t_BL)
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
    eps_BLP = _noise_of(batch, cfg, Purpose.NOISE)
    x_BLP = cfg.process.corrupt(batch.latents, eps_BLP, t_BL)
    pred_BLP = dit.forecast(params, cfg.model, x_BLP, t_BL, batch)
    return packed_mse(pred_BLP, batch.latents, batch)


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


def vae_init(cfg: VAEStepConfig) -> TrainState:
    """Returns fresh weights of the seed, and latent moments (0, 1) of no step."""
    channels = cfg.model.latent_channels
    moments = {"mean": jnp.zeros(channels), "square": jnp.ones(channels)}
    moments["steps"] = jnp.zeros(())
    return create(vae.init(_init_key(cfg.seed), cfg.model), cfg.optim, moments)


def vae_fine_tuned(
    params: PyTree, *, cfg: VAEStepConfig, start: vae.VAEConfig
) -> TrainState:
    """Returns the state before the first step from a model's parameters.

    Its latent moments are those of `start`, as if they were of a full window of steps.
    """
    mean, std = jnp.asarray(start.latent_mean), jnp.asarray(start.latent_std)
    steps = jnp.asarray(1.0 / (1.0 - _MOMENT_DECAY), jnp.float32)
    moments = {"mean": mean, "square": mean**2 + std**2, "steps": steps}
    # Copies: the loop donates its state, and the model stays the caller's.
    return create(jax.tree.map(jnp.copy, params), cfg.optim, moments)


def vae_step(
    state: TrainState,
    batch: dict[str, UInt8[Array, "b t h w 3"]],
    *,
    cfg: VAEStepConfig,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update of weights and latent moments, and metrics."""
    video = batch["video"].astype(jnp.float32) / 127.5 - 1.0
    key = jax.random.fold_in(jax.random.key(cfg.seed), int(Purpose.POSTERIOR))
    key = jax.random.fold_in(key, state.step)

    def loss_fn(params):
        if cfg.model.linear:
            params = params | {"encoder": jax.lax.stop_gradient(params["encoder"])}
        mean, logvar = vae.encode(params, cfg.model, video)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        reconstructed = vae.decode_unclipped(params, cfg.model, z)
        l1 = jnp.mean(jnp.abs(reconstructed - video))
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        mse = jnp.mean(jnp.square(jnp.clip(reconstructed, -1.0, 1.0) - video))
        psnr = 10.0 * jnp.log10(4.0 / jnp.maximum(mse, 1e-10))
        moments = {
            "mean": jnp.mean(mean, axis=(0, 1, 2, 3)),
            "square": jnp.mean(mean**2, axis=(0, 1, 2, 3)),
        }
        return l1 + cfg.kl_weight * kl, (moments, {"l1": l1, "kl": kl, "psnr": psnr})

    (loss, (moments, parts)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    # Exact means over the steps so far until the window of 1/(1−decay) steps is full.
    steps = state.extra["steps"]
    decay = jnp.minimum(_MOMENT_DECAY, steps / (steps + 1.0))
    decay = 1.0 if cfg.model.linear else decay
    moments = {
        name: old + (1.0 - decay) * (moments[name] - old)
        for name, old in state.extra.items()
        if name != "steps"
    }
    moments["steps"] = steps + 1.0
    state, metrics = update(state, loss, grads, moments, cfg.optim)
    pixels = jnp.asarray(video.size // 3)
    return state, {**metrics, **parts, "px": pixels}

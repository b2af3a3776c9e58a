"""The training step of the VAE, a pure function of (state, batch)."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import PyTree, UInt8

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.diffusion.process import Purpose
from soraxla.models import vae
from soraxla.training.optim import OptimConfig
from soraxla.training.state import Metrics, TrainState, create, init_key, update

_MOMENT_DECAY = 0.99  # of the VAE's latent statistics, a step


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


def vae_init(cfg: VAEStepConfig) -> TrainState:
    """Returns fresh weights of the seed, and latent moments (0, 1) of no step."""
    channels = cfg.model.latent_channels
    moments = {"mean": jnp.zeros(channels), "square": jnp.ones(channels)}
    moments["steps"] = jnp.zeros(())
    return create(vae.init(init_key(cfg.seed), cfg.model), cfg.optim, moments)


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

"""One training step of the VAE: a pure function of (state, batch)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree, UInt8

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.diffusion.process import Purpose
from soraxla.models import vae, vgg
from soraxla.models.vae import discriminator
from soraxla.training.optim import OptimConfig
from soraxla.training.state import Metrics, TrainState, create, init_key, update
from soraxla.training.vae_losses.adversarial import (
    Adversarial,
    Played,
    adversarial_init,
    idle,
    play,
)
from soraxla.training.vae_losses.equivariance import half_size
from soraxla.training.vae_losses.losses import VAELosses
from soraxla.training.vae_losses.term import Clips, Reconstruction, from_start

_MOMENT_DECAY = 0.99  # of the latent statistics, a step


@dataclass(frozen=True, kw_only=True)
class VAEStepConfig:
    """Settings of a VAE step.

    A linear encoder and the moments of its latents stay constant, so that a transformer
    trained on such latents can use the decoder after it has learnt more. So does every
    encoder with `train` "decoder".

    Attributes:
        losses: the terms of the loss.
        train: the parameters that are trained. "decoder" keeps the encoder and the
            statistics of the latents of the VAE that the training starts from.
        seed: seed of initial weights, crops and latent noise.
    """

    model: vae.VAEConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    losses: VAELosses = field(default_factory=VAELosses)
    train: Literal["all", "decoder"] = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.linear and self.train == "all" and self.optim.weight_decay:
            raise UserError(
                f"optim.weight_decay is {self.optim.weight_decay}, expected 0 for a "
                "linear VAE: its encoder is not trained, only shrunk"
            )

    @property
    def keeps_latents(self) -> bool:
        """True if the latents of a clip stay what they are."""
        return self.model.linear or self.train == "decoder"

    def trained(self, params: PyTree) -> PyTree:
        """Returns the part of the VAE's parameters that is trained."""
        return params if self.train == "all" else {"decoder": params["decoder"]}

    def least_sides(self) -> dict[str, int]:
        """Returns the pixels that a window's sides need, by the name of the loss."""
        needs = {
            "perceptual": vgg.SMALLEST,
            "equivariance": 2 * self.model.spatial,
            "adversarial": discriminator.PATCH,
        }
        return {name: needs[name] for name, _ in self.losses if name in needs}


def vae_init(cfg: VAEStepConfig) -> TrainState:
    """Returns fresh weights of the seed, and latent moments (0, 1) of no step."""
    channels = cfg.model.latent_channels
    moments = {"mean": jnp.zeros(channels), "square": jnp.ones(channels)}
    moments["steps"] = jnp.zeros(())
    return _created(vae.init(init_key(cfg.seed), cfg.model), cfg, moments)


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
    return _created(jax.tree.map(jnp.copy, params), cfg, moments)


def _created(params: PyTree, cfg: VAEStepConfig, moments: PyTree) -> TrainState:
    """Returns the state before the first step; parts that are off have no state."""
    extra = moments
    if (term := cfg.losses.adversarial) is not None:
        key = jax.random.fold_in(init_key(cfg.seed), 1)
        extra = {**moments, "discriminator": adversarial_init(term, key)}
    state = create(cfg.trained(params), cfg.optim, extra)
    # Copies again, because a donated state must not hold a buffer twice.
    rest = {k: v for k, v in params.items() if k not in state.params}
    copies = jax.tree.map(jnp.copy, rest)
    return state._replace(params=rest | state.params, ema=copies | state.ema)


def vae_step(
    state: TrainState,
    batch: dict[str, UInt8[Array, "b t h w 3"]],
    features: PyTree = None,
    *,
    cfg: VAEStepConfig,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update of weights and latent moments, and metrics.

    Args:
        features: the frozen network of the perceptual term; None without that term.
    """
    video = batch["video"].astype(jnp.float32) / 127.5 - 1.0
    key = jax.random.fold_in(jax.random.key(cfg.seed), int(Purpose.POSTERIOR))
    key = jax.random.fold_in(key, state.step)
    clips = Clips(video=video, key=key, features=features)

    # ---- Reconstruct -----------------------------------------------------------------
    made, pull = jax.vjp(
        lambda trained: reconstruct(state.params | trained, clips, cfg),
        cfg.trained(state.params),
    )

    # ---- Loss, and its gradient in the reconstruction --------------------------------
    (loss, values), by_made = jax.value_and_grad(
        lambda made: cfg.losses.total(clips, made, state.step), has_aux=True
    )(made)
    extra, sound = _moments(state.extra, made.mean, cfg), True
    if (term := cfg.losses.adversarial) is not None:
        game = _played(term, state, clips, made, by_made, pull)
        loss, sound = loss + game.loss, game.finite
        by_made = by_made._replace(pixels=by_made.pixels + game.by_pixels)
        values |= game.metrics
        extra["discriminator"] = game.state

    # ---- Update ----------------------------------------------------------------------
    (grads,) = pull(by_made)
    part = state._replace(params=cfg.trained(state.params), ema=cfg.trained(state.ema))
    after, metrics = update(part, loss, grads, extra, cfg.optim, sound=sound)
    values["psnr"] = _psnr(made.pixels, video)
    return after._replace(
        params=state.params | after.params, ema=state.ema | after.ema
    ), {**metrics, **values, "px": jnp.asarray(video.size // 3)}


def reconstruct(params: PyTree, clips: Clips, cfg: VAEStepConfig) -> Reconstruction:
    """Returns the outputs of the VAE, with latents drawn from the posterior."""
    if cfg.model.linear:
        params = params | {"encoder": jax.lax.stop_gradient(params["encoder"])}
    mean, logvar = vae.encode(params, cfg.model, clips.video)
    z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(clips.key, mean.shape)
    half = None
    if cfg.losses.equivariance is not None:
        half = vae.decode_unclipped(params, cfg.model, half_size(z))
    pixels = vae.decode_unclipped(params, cfg.model, z)
    return Reconstruction(pixels=pixels, mean=mean, logvar=logvar, half=half)


def _played(
    term: Adversarial,
    state: TrainState,
    clips: Clips,
    made: Reconstruction,
    by_made: Reconstruction,
    pull: Callable[[Reconstruction], tuple[PyTree]],
) -> Played:
    """Returns the adversarial term from its start on (`play`)."""
    zeros = jax.tree.map(jnp.zeros_like, made)

    def last_layer_norm(by_pixels: Array) -> Array:
        # The compiler leaves out the gradients of all other layers.
        (grads,) = pull(zeros._replace(pixels=by_pixels))
        last = grads["decoder"].get("conv_out", grads["decoder"].get("linear"))
        return optax.tree.norm(last)

    before = state.extra["discriminator"]
    return from_start(
        term,
        state.step,
        lambda: play(term, before, clips, made.pixels, by_made.pixels, last_layer_norm),
        lambda: idle(before, made.pixels),
    )


def _moments(before: PyTree, mean: Array, cfg: VAEStepConfig) -> PyTree:
    """Returns the moments of the latents after a step.

    They are exact means over the steps until the window of 1/(1−decay) steps is full.
    """
    found = {
        "mean": jnp.mean(mean, axis=(0, 1, 2, 3)),
        "square": jnp.mean(mean**2, axis=(0, 1, 2, 3)),
    }
    steps = before["steps"]
    decay = jnp.minimum(_MOMENT_DECAY, steps / (steps + 1.0))
    decay = 1.0 if cfg.keeps_latents else decay
    after = {
        name: before[name] + (1.0 - decay) * (new - before[name])
        for name, new in found.items()
    }
    return {**after, "steps": steps + 1.0}


def _psnr(pixels: Array, video: Array) -> Array:
    """Returns the PSNR in dB."""
    mse = jnp.mean(jnp.square(jnp.clip(pixels, -1.0, 1.0) - video))
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mse, 1e-10))

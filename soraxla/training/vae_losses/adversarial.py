"""The judgement of a discriminator, which is trained beside the VAE."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, PRNGKeyArray, PyTree

from soraxla.core.types import Array
from soraxla.models.vae import discriminator
from soraxla.training.state import Metrics
from soraxla.training.vae_losses.term import Clips, LossTerm, zero

_MOST = 1e4  # of the adaptive weight
_LEAST_NORM = 1e-4  # of the gradient that it divides by


@dataclass(frozen=True, kw_only=True)
class Adversarial(LossTerm):
    """The hinge loss of a discriminator of patches of video, see `discriminator.py`.

    Its weight is multiplied by ‖∇(l1 + perceptual)‖ / ‖∇ adversarial‖, the norms of
    gradients in the decoder's last layer (arXiv 2012.09841), so that it counts the same
    whatever their units.

    Attributes:
        weight: factor of the term in the loss, beside the adaptive one.
        width: channels of the discriminator's first stage.
        learning_rate: the constant rate of the discriminator's Adam.
        r1: weight of ‖∂logits/∂pixels‖² on real clips, per patch, in the
            discriminator's loss (arXiv 1801.04406), which keeps it smooth; 0 leaves it
            out.
    """

    weight: float = 0.1
    width: int = 64
    learning_rate: float = 1e-4
    r1: float = 0.1


class Played(NamedTuple):
    """A step of the discriminator and of the game against it.

    `loss` is weighted; `by_pixels` is its gradient in the reconstructed pixels.
    `finite` is False if the discriminator's loss or gradient is not finite.
    """

    loss: Float[Array, ""]
    by_pixels: Float[Array, "b t h w 3"]
    state: PyTree
    metrics: Metrics
    finite: Bool[Array, ""]


def adversarial_init(term: Adversarial, key: PRNGKeyArray) -> PyTree:
    """Returns the discriminator's parameters and the state of its optimizer."""
    params = discriminator.init(key, term.width)
    return {"params": params, "opt": _optimizer(term).init(params)}


def idle(state: PyTree, pixels: Float[Array, "b t h w 3"]) -> Played:
    """Returns a step before the start, which changes nothing."""
    names = ("adversarial", "adversarial_weight", "discriminator")
    return Played(
        loss=zero(),
        by_pixels=jnp.zeros_like(pixels),
        state=state,
        metrics={name: zero() for name in names},
        finite=jnp.ones((), bool),
    )


def play(
    term: Adversarial,
    state: PyTree,
    clips: Clips,
    pixels: Float[Array, "b t h w 3"],
    by_pixels: Float[Array, "b t h w 3"],
    last_layer_norm: Callable[[Array], Array],
) -> Played:
    """Returns the term for the VAE, and the discriminator after one update.

    Args:
        state: of `adversarial_init`.
        pixels: the reconstruction.
        by_pixels: the gradient of the other terms in it.
        last_layer_norm: maps a gradient in the pixels to the norm of that in the
            decoder's last layer.
    """

    def fooled(pixels: Array) -> Array:
        logits = discriminator.discriminate(state["params"], term.width, pixels)
        return -jnp.mean(logits)

    loss, by_fooled = jax.value_and_grad(fooled)(pixels)
    norms = last_layer_norm(by_pixels), last_layer_norm(by_fooled)
    weight = term.weight * jnp.minimum(norms[0] / (norms[1] + _LEAST_NORM), _MOST)

    mistakes, grads = jax.value_and_grad(_discriminator_loss)(
        state["params"], term, clips.video, pixels
    )
    updates, opt = _optimizer(term).update(grads, state["opt"])
    params = optax.apply_updates(state["params"], updates)
    return Played(
        loss=weight * loss,
        by_pixels=weight * by_fooled,
        state={"params": params, "opt": opt},
        metrics={
            "adversarial": loss,
            "adversarial_weight": weight,
            "discriminator": mistakes,
        },
        finite=jnp.isfinite(mistakes) & jnp.isfinite(optax.tree.norm(grads)),
    )


def _discriminator_loss(
    params: PyTree, term: Adversarial, video: Array, pixels: Array
) -> Array:
    """Returns the hinge loss, 1 for logits of 0, plus the R1 penalty."""

    def judge(x: Array) -> Array:
        return discriminator.discriminate(params, term.width, x)

    real, pull = jax.vjp(judge, video)
    fake = judge(pixels)
    loss = 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))
    if not term.r1:
        return loss
    (slope,) = pull(jnp.ones_like(real))
    return loss + term.r1 * jnp.sum(jnp.square(slope)) / real.size


def _optimizer(term: Adversarial) -> optax.GradientTransformation:
    # A short memory, because what it learns from changes as the decoder does.
    return optax.adam(term.learning_rate, b1=0.5, b2=0.9)

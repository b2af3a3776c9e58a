"""One training step of the captioner: a pure function of (state, batch)."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PyTree

from soraxla.core.types import Array, PackedBatch
from soraxla.models import captioner
from soraxla.models.captioner.model import TOWER
from soraxla.training.optim import OptimConfig
from soraxla.training.state import Metrics, TrainState, create, init_key, update


@dataclass(frozen=True, kw_only=True)
class CaptionStepConfig:
    """Settings of a captioner's step.

    Attributes:
        train_pretrained: train the pretrained tower too; else it stays as it is.
        seed: seed of initial weights and of the order of clips.
    """

    model: captioner.CaptionerConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    train_pretrained: bool = False
    seed: int = 0

    def trained(self, params: PyTree) -> PyTree:
        """Returns the part of the parameters that is trained."""
        if self.train_pretrained:
            return params
        return {name: tree for name, tree in params.items() if name != TOWER}


def caption_init(cfg: CaptionStepConfig) -> TrainState:
    """Returns the state before the first step, from fresh weights of the seed."""
    return _created(captioner.init(init_key(cfg.seed), cfg.model), cfg)


def caption_started(params: PyTree, *, cfg: CaptionStepConfig) -> TrainState:
    """Returns the state before the first step; `params` replaces fresh weights.

    They are those of a captioner, or of a pretrained tower only.
    """
    # Copies: the loop donates its state, and the model stays the caller's.
    copies = jax.tree.map(jnp.copy, params)
    return _created(captioner.init(init_key(cfg.seed), cfg.model) | copies, cfg)


def _created(params: PyTree, cfg: CaptionStepConfig) -> TrainState:
    state = create(cfg.trained(params), cfg.optim, {})
    rest = {name: tree for name, tree in params.items() if name not in state.params}
    copies = jax.tree.map(jnp.copy, rest)  # a donated state must not hold one twice
    return state._replace(params=rest | state.params, ema=copies | state.ema)


def caption_step(
    state: TrainState, batch: PackedBatch, *, cfg: CaptionStepConfig
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and metrics."""

    def loss_fn(trained: PyTree) -> tuple[Array, Array]:
        return caption_loss(state.params | trained, batch, cfg.model)

    part = cfg.trained(state.params)
    (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
    own = state._replace(params=part, ema=cfg.trained(state.ema))
    after, metrics = update(own, loss, grads, {}, cfg.optim)
    after = after._replace(
        params=state.params | after.params, ema=state.ema | after.ema
    )
    tokens = jnp.sum(jnp.asarray(batch.segment_ids) > 0)
    return after, {**metrics, "accuracy": accuracy, "tokens": tokens}


def caption_loss(
    params: PyTree, batch: PackedBatch, model: captioner.CaptionerConfig
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the mean cross-entropy of the captions' tokens, and the share guessed.

    Each token counts the same, so packing does not change the loss.
    """
    logits = captioner.apply(params, model, batch)
    target = jnp.asarray(batch.text)[:, :, 1].astype(jnp.int32)
    real = jnp.asarray(batch.text_segment_ids) > 0
    error = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    count = jnp.maximum(real.sum(), 1).astype(jnp.float32)
    right = (jnp.argmax(logits, axis=-1) == target) & real
    return jnp.where(real, error, 0.0).sum() / count, right.sum() / count

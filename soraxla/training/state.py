"""The state of a training, and its update by a gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int, PRNGKeyArray, PyTree

from soraxla.core.trees import moving_average
from soraxla.core.types import Array
from soraxla.training.optim import OptimConfig, optimizer

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """The checkpointed state of a training; params, EMA and moments are fp32."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree
    opt: PyTree
    extra: PyTree  # the VAE's latent moments and discriminator
    skipped: Int[Array, ""]  # steps without a finite gradient, in all
    skipped_in_a_row: Int[Array, ""]


def init_key(seed: int) -> PRNGKeyArray:
    """Returns the key of fresh weights."""
    # XLA's own generator: a hundred inlined Threefry streams take minutes to compile.
    return jax.random.key(seed, impl="rbg")


def create(params: PyTree, settings: OptimConfig, extra: PyTree) -> TrainState:
    """Returns the state before the first step; the EMA starts as the parameters."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        # Its own buffers: a donated state must not hold one twice.
        ema=jax.tree.map(jnp.copy, params),
        opt=optimizer(settings).init(params),
        extra=extra,
        skipped=jnp.copy(zero),
        skipped_in_a_row=jnp.copy(zero),
    )


def update(
    state: TrainState,
    loss: Float[Array, ""],
    grads: PyTree,
    extra: PyTree,
    settings: OptimConfig,
    weight: Float[Array, ""] | float = 1.0,
    sound: Bool[Array, ""] | bool = True,
) -> tuple[TrainState, Metrics]:
    """Returns the next state, and metrics.

    If loss or gradient is not finite, or the step not `sound`, only step and counts
    change.

    Args:
        extra: replaces `state.extra`.
        weight: of this step among others; multiplies the clipped gradient.
        sound: whether all else that the step computed is finite.
    """
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & sound
    updates, opt = optimizer(settings).update(
        grads, state.opt, state.params, weight=weight
    )
    params = optax.apply_updates(state.params, updates)
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(settings.ema_decay, (1.0 + step) / (10.0 + step))
    new: Any = (params, moving_average(state.ema, params, decay), opt, extra)
    old: Any = (state.params, state.ema, state.opt, state.extra)
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    bad = 1 - finite.astype(jnp.int32)
    state = TrainState(
        step=state.step + 1,
        params=kept[0],
        ema=kept[1],
        opt=kept[2],
        extra=kept[3],
        skipped=state.skipped + bad,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
    )
    return state, {
        "loss": loss,
        "grad_norm": grad_norm,
        "skipped": state.skipped,
        "skipped_in_a_row": state.skipped_in_a_row,
    }

"""AdamW as video diffusion trains it, or Muon for matrices of hidden layers."""

import math
from dataclasses import dataclass

import jax
import optax
from jaxtyping import PyTree

from soraxla.core.errors import UserError
from soraxla.training.muon import in_vae, scale_by_muon


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Settings of the optimizer and of the EMA.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        muon_learning_rate: peak learning rate of Muon, whose updates are scaled to the
            RMS of AdamW's. Muon trains the matrices in a transformer's blocks, local
            and forecast layers, or the kernels in a VAE's blocks; AdamW trains all
            other parameters. None trains all parameters by AdamW.
        warmup_steps: length of a linear warm-up; its k-th step has the rate's k-th
            part, so that the first one trains too.
        decay_steps: length of a cosine decay to 0, counted from step 0; None keeps
            the rate constant after the warm-up.
        b1: AdamW's decay of the mean gradient.
        b2: AdamW's decay of the mean squared gradient.
        weight_decay: weight decay of AdamW and Muon, for kernels and adapters; biases,
            norms, tables and embedded constants have none.
        clip_norm: largest global gradient norm; inf clips nothing.
        ema_decay: the EMA's decay; at step k it is at most (1+k)/(10+k).
    """

    learning_rate: float = 1e-4
    muon_learning_rate: float | None = None
    warmup_steps: int = 100
    decay_steps: int | None = None
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        for name, high in (
            ("learning_rate", math.inf),
            ("muon_learning_rate", math.inf),
            ("warmup_steps", math.inf),
            ("b1", 1.0),
            ("b2", 1.0),
            ("weight_decay", math.inf),
            ("ema_decay", 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < high:
                below = f" and below {high:g}" if high < math.inf else ""
                raise UserError(
                    f"optim.{name} is {value}, expected a number from 0 on{below}"
                )
        if not self.clip_norm > 0:
            raise UserError(
                f"optim.clip_norm is {self.clip_norm}, expected above 0: inf clips "
                "nothing"
            )


def schedule(settings: OptimConfig, peak: float) -> optax.Schedule:
    """Returns a linear warm-up, then a constant rate or a cosine down to 0.

    The rate at 0 is that of the first step.
    """
    warmup = max(settings.warmup_steps, 1)
    first = peak / warmup
    if settings.decay_steps is None:
        return optax.warmup_constant_schedule(first, peak, warmup - 1)
    if settings.decay_steps <= settings.warmup_steps:
        raise UserError(
            f"optim.decay_steps is {settings.decay_steps}, expected more than the "
            f"{warmup} warm-up steps; raise it or shorten the warm-up"
        )
    return optax.warmup_cosine_decay_schedule(
        first, peak, warmup - 1, settings.decay_steps
    )


def optimizer(settings: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Returns clipping by global norm, then AdamW (arXiv 1711.05101) or Muon; fp32.

    Its `update` takes a `weight`: a factor of the clipped gradient.
    """
    adamw = optax.adamw(
        schedule(settings, settings.learning_rate),
        b1=settings.b1,
        b2=settings.b2,
        weight_decay=settings.weight_decay,
        mask=_decays,
    )
    clip = optax.chain(optax.clip_by_global_norm(settings.clip_norm), _weighted())
    if settings.muon_learning_rate is None:
        return optax.chain(clip, adamw)
    rate = schedule(settings, settings.muon_learning_rate)
    muon = optax.chain(
        scale_by_muon(),
        optax.identity(),
        optax.add_decayed_weights(settings.weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    # Checkpoints have the state of optax.contrib.muon, whose Adam trains nothing here.
    hidden = optax.partition(
        {"muon": muon, "adam": optax.adamw(rate)},
        lambda params: jax.tree.map(lambda _: "muon", params),
    )
    return optax.chain(
        clip, optax.partition({"hidden": hidden, "other": adamw}, _hidden_or_other)
    )


def _decays(params: PyTree) -> PyTree:
    """Returns True for what multiplies activations: kernels, taps and adapters."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key in ("kernel", "taps", "a", "b"), params
    )


def _weighted() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, weight=1.0, **_):
        return jax.tree.map(lambda g: weight * g, updates), state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )


def _hidden_or_other(params: PyTree) -> PyTree:
    """Returns `hidden` for the kernels of a transformer's blocks, (layer, in, out), and
    local and forecast layers, (in, out), and of a VAE's blocks, (taps…, in, out); else
    `other`.

    Raises:
        UserError: there are no such kernels.
    """

    def label(path, x: jax.Array) -> str:
        names = [step.key for step in path]
        in_block = names[0] in ("blocks", "tower") and x.ndim == 3
        in_local = names[0] in ("local", "forecast") and "mlp" in names
        in_stage = in_vae(path) and ("_res_" in names[1] or names[1] == "middle")
        hidden = names[-1] == "kernel" and (in_block or in_local or in_stage)
        return "hidden" if hidden else "other"

    labels = jax.tree_util.tree_map_with_path(label, params)
    if "hidden" not in jax.tree.leaves(labels):
        raise UserError(
            "optim.muon_learning_rate is set, but Muon trains matrices of blocks and "
            "this model has no blocks; leave it out"
        )
    return labels

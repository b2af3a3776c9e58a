"""AdamW as video diffusion trains it, or Muon for the hidden matrices."""

from dataclasses import dataclass

import jax
import optax
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers, muon


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Attributes:
    decay_steps: length of a cosine decay to 0, counted from step 0; None keeps
        the rate constant after the warm-up.
    muon_learning_rate: peak rate of the hidden matrices, trained by Muon, its updates
        scaled to the RMS of AdamW's; None trains them by AdamW with all the rest.
    ema_decay: limit of the moving average's decay; it starts as (1+k)/(10+k).
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


def schedule(settings: OptimSettings, peak: float) -> optax.Schedule:
    """Linear warm-up from 0, then constant or a cosine down to 0."""
    warmup = settings.warmup_steps
    if settings.decay_steps is None:
        return optax.warmup_constant_schedule(0.0, peak, max(warmup, 1))
    if settings.decay_steps <= warmup:
        raise ValueError(
            f"optim.decay_steps is {settings.decay_steps}, expected more than the "
            f"{warmup} warm-up steps; raise it or shorten the warm-up"
        )
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, max(warmup, 1), settings.decay_steps
    )


def optimizer(settings: OptimSettings) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (arXiv 1711.05101) or Muon; all of it fp32."""
    rate = schedule(settings, settings.learning_rate)
    if settings.muon_learning_rate is None:
        rule = optax.adamw(
            rate,
            b1=settings.b1,
            b2=settings.b2,
            weight_decay=settings.weight_decay,
        )
    else:
        # RMS 0.2 is about AdamW's (arXiv 2502.16982); the preconditioner saves one of
        # five Newton-Schulz steps (arXiv 2512.04632).
        rule = muon(
            schedule(settings, settings.muon_learning_rate),
            ns_steps=4,
            preconditioning="aol",
            consistent_rms=0.2,
            weight_decay=settings.weight_decay,
            adam_b1=settings.b1,
            adam_b2=settings.b2,
            adam_learning_rate=rate,
            adam_weight_decay=settings.weight_decay,
            muon_weight_dimension_numbers=_hidden_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), rule)


def _hidden_matrices(params: PyTree) -> PyTree:
    """Which parameters Muon trains, as what matrices: kernels of stacked blocks (layer,
    in, out), and of convolutions (t, h, w, in, out) with their taps flattened; None for
    embeddings, heads, tables, biases and gains, which stay with AdamW."""

    def axes(path, x: jax.Array) -> MuonDimensionNumbers | None:
        if path[-1].key != "kernel" or x.ndim not in (3, 5):
            return None
        taps = (0, 1, 2) if x.ndim == 5 else ()
        return MuonDimensionNumbers((*taps, x.ndim - 2), x.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)

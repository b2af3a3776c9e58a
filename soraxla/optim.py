"""AdamW as video diffusion trains it, with warm-up and a global-norm clip."""

from dataclasses import dataclass

import optax


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Attributes:
    decay_steps: length of a cosine decay to 0, counted from step 0; None keeps
        the rate constant after the warm-up.
    ema_decay: limit of the moving average's decay; it starts as (1+k)/(10+k).
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 100
    decay_steps: int | None = None
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999


def learning_rate(settings: OptimSettings) -> optax.Schedule:
    """Linear warm-up from 0, then constant or a cosine down to 0."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
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
    """Clip by global norm, then AdamW (arXiv 1711.05101); all of it fp32."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            learning_rate(settings),
            b1=settings.b1,
            b2=settings.b2,
            weight_decay=settings.weight_decay,
        ),
    )

"""The times of a sampler's grid per segment, in NumPy and float64, outside of jit.

Wan's UniPC passes its network the time rounded down to a thousandth. At an edge,
float32 would round to the other side, so grids are made on the host and passed to the
sampler like the batch.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.diffusion.noise_schedule import shift_time

# Wan trains on the times 1/1000 … 1000/1000.
_FIRST, _COUNT = 0.001, 1000
# UniPC divides by 1 − s, so it starts slightly below pure noise.
_BELOW_NOISE = 1e-6


class Grid(NamedTuple):
    """A grid of n points from noise to clean, one more than steps, for each segment."""

    t: Float[Array, "n b s"]
    model_t: Float[Array, "n b s"]


def even_grid(steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
    """Returns u evenly from `start` to 0, shifted.

    Raises:
        UserError: fewer than one step.
    """
    u = np.linspace(start, 0.0, _checked(steps) + 1)
    return _grid(_shifted(u, shift))


def wan_euler_grid(steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
    """Returns u evenly from `start` to S(0.001), shifted, then 0; S is the shift.

    The shift S thus applies twice. These are the times of diffusers'
    `FlowMatchEulerDiscreteScheduler`.

    Raises:
        UserError: fewer than one step.
    """
    # The end is one of diffusers' training times, which are float32.
    shift = np.asarray(shift, np.float32)
    end = np.asarray(shift_time(np.full_like(shift, _FIRST), shift), np.float64)
    u = np.linspace(np.full_like(end, start), np.minimum(end, start), _checked(steps))
    return _grid(_ended(_shifted(u, shift)))


def unipc_grid(steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
    """Returns u evenly from `start` to 0.001, shifted, with 0 in place of the last.

    The first level is no nearer to noise than 1e-6, and the network gets ⌊1000t⌋/1000,
    as by diffusers' `UniPCMultistepScheduler` for flow models.

    Raises:
        UserError: fewer than one step.
    """
    u = np.linspace(start, min(_FIRST, start), _checked(steps) + 1)[:-1]
    t = _shifted(u, shift)
    t[0] = np.minimum(t[0], 1.0 - _BELOW_NOISE)
    t = _ended(t)
    return _grid(t, np.floor(_COUNT * t) / _COUNT)


def _checked(steps: int) -> int:
    if steps < 1:
        raise UserError(f"{steps} sampling steps: expected at least 1")
    return steps


def _shifted(u: np.ndarray, shift: Array) -> Float[np.ndarray, "n b s"]:
    """Shifts times (n) that segments share, or (n b s) per segment."""
    shift = np.asarray(shift, np.float64)
    shape = (len(u), *shift.shape)
    u = u if u.shape == shape else u[:, None, None]
    t = shift_time(np.broadcast_to(u, shape), np.broadcast_to(shift, shape))
    return np.asarray(t)


def _ended(t: Float[np.ndarray, "m b s"]) -> Float[np.ndarray, "n b s"]:
    """Appends a last point at 0."""
    return np.concatenate([t, np.zeros_like(t[:1])])


def _grid(t: np.ndarray, model_t: np.ndarray | None = None) -> Grid:
    model_t = t if model_t is None else model_t
    return Grid(t=t.astype(np.float32), model_t=model_t.astype(np.float32))

"""The times a sampler stops at, per segment: NumPy, float64, outside of what compiles.

Wan's UniPC tells its network the time rounded down to a thousandth. Where that falls on
an edge, float32 would round to the other side, so that grids are made on the host and
given to the sampler like the batch.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.diffusion.noise_schedule import shift_time

# Wan trains on the times 1/1000 … 1000/1000.
_FIRST, _COUNT = 0.001, 1000
# UniPC divides by 1 − s, so that it starts a little below pure noise.
_BELOW_NOISE = 1e-6


class Grid(NamedTuple):
    """n stops from noise to clean, one more than steps, each segment on its own.

    Attributes:
        t: the time whose noise level the latents have; falls, and is 0 at the last.
        asked: the time the network is told there.
    """

    t: Float[Array, "n b s"]
    asked: Float[Array, "n b s"]


def even_grid(steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
    """u evenly from `start` to 0, shifted.

    Raises:
        UserError: fewer than one step.
    """
    u = np.linspace(start, 0.0, _checked(steps) + 1)
    return _grid(_shifted(u, shift))


def wan_euler_grid(steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
    """u evenly from `start` to S(0.001), shifted, then 0; S is the shift, met twice.

    Diffusers' `FlowMatchEulerDiscreteScheduler` takes these times.

    Raises:
        UserError: fewer than one step.
    """
    # The end is one of diffusers' training times, which are float32.
    shift = np.asarray(shift, np.float32)
    end = np.asarray(shift_time(np.full_like(shift, _FIRST), shift), np.float64)
    u = np.linspace(np.full_like(end, start), np.minimum(end, start), _checked(steps))
    return _grid(_ended(_shifted(u, shift)))


def unipc_grid(steps: int, shift: Float[Array, "b s"], start: float = 1.0) -> Grid:
    """u evenly from `start` to 0.001, shifted, with 0 in place of the last.

    The first level is no nearer to noise than 1e-6, and the network is told
    ⌊1000t⌋/1000, as by diffusers' `UniPCMultistepScheduler` for flow models.

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
    """Of times (n) that segments share, or (n b s) of their own."""
    shift = np.asarray(shift, np.float64)
    shape = (len(u), *shift.shape)
    u = u if u.shape == shape else u[:, None, None]
    t = shift_time(np.broadcast_to(u, shape), np.broadcast_to(shift, shape))
    return np.asarray(t)


def _ended(t: Float[np.ndarray, "m b s"]) -> Float[np.ndarray, "n b s"]:
    """With a last stop at 0."""
    return np.concatenate([t, np.zeros_like(t[:1])])


def _grid(t: np.ndarray, asked: np.ndarray | None = None) -> Grid:
    asked = t if asked is None else asked
    return Grid(t=t.astype(np.float32), asked=asked.astype(np.float32))

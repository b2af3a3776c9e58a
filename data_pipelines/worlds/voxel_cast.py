"""Rays through a grid of blocks: the first block that each hits, and its distance.

Rays cross the grid cell by cell as in Amanatides and Woo (1987), but if the nearest
block is k cells away, they cross the whole empty cube of 2k − 1 cells at once (Cohen
and Sheffer's proximity clouds, 1994).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.worlds.voxel_terrain import SIZE, TALL
from soraxla.core.types import Array
from soraxla.parallel.compiler import jit

FARTHEST = 12  # cells; the largest distance in `leaps`
# Half the period of the land, so that no block is seen twice.
VIEW = SIZE / 2  # cells; the length of a ray

_WRAP = SIZE - 1  # SIZE is a power of two

_CUBE = np.abs(np.mgrid[[slice(-FARTHEST, FARTHEST + 1)] * 3]).max(0).astype(np.uint8)


class Hits(NamedTuple):
    """The hits of rays. A ray without a hit has block 0, and its length as distance."""

    distance: Float[Array, " n"]  # along the ray, in lengths of its direction
    cell: Int[Array, "3 n"]  # not wrapped into the grid
    axis: Int[Array, " n"]  # of the entered face: 0, 1, 2 for x, y, z
    block: Int[Array, " n"]


def leaps(grid: UInt8[np.ndarray, "x y z"]) -> UInt8[np.ndarray, "x y z"]:
    """Returns steps to the nearest block, also diagonal; at most `FARTHEST`."""
    near = grid != 0
    leap = (~near).astype(np.uint8)
    for _ in range(FARTHEST - 1):
        for axis in (0, 2):
            near = near | np.roll(near, 1, axis) | np.roll(near, -1, axis)
        tall = np.pad(near, ((0, 0), (1, 1), (0, 0)))
        near = tall[:, :-2] | near | tall[:, 2:]
        leap += ~near
    return leap


def leaps_after(
    leap: UInt8[np.ndarray, "x y z"], cell: tuple[int, int, int], solid: bool
) -> UInt8[np.ndarray, "x y z"]:
    """Returns `leap` after one cell became solid or empty; no leap is too long.

    Around a removed block the leaps stay as short as they were.
    """
    leap = leap.copy()
    x, y, z = cell
    if not solid:
        leap[x % SIZE, y, z % SIZE] = 1
        return leap
    around = np.arange(-FARTHEST, FARTHEST + 1)
    inside = (around + y >= 0) & (around + y < TALL)
    window = np.ix_((x + around) % SIZE, (y + around)[inside], (z + around) % SIZE)
    leap[window] = np.minimum(leap[window], _CUBE[:, inside])
    return leap


def index(x: Array, y: Array, z: Array) -> Array:
    """Returns indices of cells of the endless land in a flattened grid; clamps y."""
    return ((x & _WRAP) * TALL + jnp.clip(y, 0, TALL - 1)) * SIZE + (z & _WRAP)


def gather(values: Array, at: Array) -> Array:
    """Returns values[at], not fused: in a fusion, a CPU loop gathers one by one."""
    return jax.lax.optimization_barrier(values[jax.lax.optimization_barrier(at)])


def trace(
    blocks: UInt8[Array, " cells"],
    leap: UInt8[Array, " cells"],
    origin: Float[Array, " 3"],
    direction: Float[Array, "3 n"],
    far: float | Float[Array, ""] = VIEW,
) -> Hits:
    """Follows rays from `origin` until a block, open sky, or `far` lengths.

    A ray that starts inside a block hits it at distance 0.
    """
    rays = direction.shape[1]
    # A ray along a face needs a side where it leaves: far ahead.
    direction = jnp.where(jnp.abs(direction) < 1e-6, 1e-6, direction)
    ahead = [along > 0 for along in direction]
    inverse = [1 / along for along in direction]

    def room(cell: tuple[Array, ...]) -> Array:
        """Returns the cells to cross at once; 0 ends a ray."""
        open_sky = (cell[1] >= TALL) & ahead[1]
        return jnp.where(open_sky, 0, leap[index(*cell)].astype(jnp.int32))

    def body(state: tuple) -> tuple:
        cell, distance, axis, size, _ = state
        active = (size > 0) & (distance < far)
        low = [c - size + 1 for c in cell]
        high = [c + size for c in cell]
        leave = [
            (jnp.where(ahead[i], high[i], low[i]) - origin[i]) * inverse[i]
            for i in range(3)
        ]
        first = jnp.minimum(jnp.minimum(leave[0], leave[1]), leave[2])
        through = jnp.where(leave[0] == first, 0, jnp.where(leave[1] == first, 1, 2))
        moved = []
        for i in range(3):
            # Integers decide where the cube ends, so rounding cannot leave it.
            beside = jnp.floor(origin[i] + first * direction[i]).astype(jnp.int32)
            beside = jnp.clip(beside, low[i], high[i] - 1)
            beyond = jnp.where(ahead[i], high[i], low[i] - 1)
            moved.append(jnp.where(through == i, beyond, beside))
        cell = tuple(jnp.where(active, m, c) for m, c in zip(moved, cell, strict=True))
        distance = jnp.where(active, first, distance)
        axis = jnp.where(active, through, axis)
        size = room(cell)
        return cell, distance, axis, size, jnp.any((size > 0) & (distance < far))

    start = tuple(jnp.full(rays, jnp.floor(o), jnp.int32) for o in origin)
    state = (start, jnp.zeros(rays), jnp.zeros(rays, jnp.int32), room(start), True)
    cell, distance, axis, size, _ = jax.lax.while_loop(lambda s: s[-1], body, state)
    inside = (size == 0) & (distance < far) & (cell[1] < TALL)
    block = jnp.where(inside, blocks[index(*cell)].astype(jnp.int32), 0)
    return Hits(distance, jnp.stack(cell), axis, block)


trace_jit = jit(trace)

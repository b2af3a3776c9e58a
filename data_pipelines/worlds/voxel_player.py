"""A player's body among blocks: it walks, climbs a step, falls, jumps, and is stopped.

A frame is divided into equal ticks. In a tick the box of the body moves along one axis
after another, each time up to the next block.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.worlds.voxel_actions import ACTIONS
from data_pipelines.worlds.voxel_blocks import FILL
from data_pipelines.worlds.voxel_terrain import SIZE, TALL

EYES = 1.62  # above the feet, in blocks; the body is 1.8 tall and 0.6 wide
REACH = 5.0  # blocks from the eyes

_HALF, _HEIGHT = 0.3, 1.8
_WALK, _BACK = 4.3, 2.6  # blocks a second
_TURN, _LOOK, _STEEPEST = 90.0, 60.0, 80.0  # degrees, a second
_GRAVITY, _JUMP, _FASTEST = 26.0, 8.1, 19.0  # a jump is 1.26 blocks high
_LIFT = 6.0  # blocks per second; the speed of the eyes after the feet climb a step
_STUCK = 0.4  # blocks per second; a slower walk counts as stopped
_WAYS = [ACTIONS.index(n) for n in ("forward", "back", "step_left", "step_right")]
_TICK = 1 / 40  # the most seconds; nothing moves half a block in a tick
_NEAR = 1e-6  # blocks; the gap between a body and its obstacle


class Player(NamedTuple):
    """A body. Angles are in degrees, as in `voxel_view.camera`."""

    feet: tuple[float, float, float]  # the middle of its base
    yaw: float
    pitch: float
    rise: float = 0.0  # speed upwards, blocks a second
    grounded: bool = True
    sunk: float = 0.0  # the eyes' remaining depth below their height, after a step

    @property
    def eyes(self) -> Float[np.ndarray, " 3"]:
        x, y, z = self.feet
        return np.array([x, y + EYES - self.sunk, z])


def is_free(blocks: UInt8[np.ndarray, "x y z"], feet: tuple) -> bool:
    """Returns whether a body there is in no block. Water fills half of its cell."""
    x, y, z = feet
    for cx in range(math.floor(x - _HALF), math.ceil(x + _HALF)):
        for cz in range(math.floor(z - _HALF), math.ceil(z + _HALF)):
            for cy in range(math.floor(y), min(math.ceil(y + _HEIGHT), TALL)):
                fill = FILL[blocks[cx % SIZE, cy, cz % SIZE]] if cy >= 0 else 1
                if fill and cy + fill > y:
                    return False
    return True


def covers(player: Player, cell: tuple[int, int, int]) -> bool:
    """Returns whether the body is partly in a cell of the endless land."""
    x, y, z = player.feet
    sides = (
        (x - _HALF, x + _HALF, cell[0]),
        (y, y + _HEIGHT, cell[1]),
        (z - _HALF, z + _HALF, cell[2]),
    )
    return all(low < c + 1 and high > c for low, high, c in sides)


def move(
    blocks: UInt8[np.ndarray, "x y z"],
    player: Player,
    row: Float[np.ndarray, " a"],
    seconds: float,
) -> Player:
    """Returns the player after a frame of the actions of `row`, except digging."""
    done = dict(zip(ACTIONS, row.tolist(), strict=True))
    ticks = math.ceil(seconds / _TICK)
    for _ in range(ticks):
        player = _tick(blocks, player, done, seconds / ticks)
    return player


def is_stopped(
    before: Player, after: Player, row: Float[np.ndarray, " a"], seconds: float
) -> bool:
    """Returns whether the player tried to walk in that frame and hit something."""
    moved = math.dist(before.feet[::2], after.feet[::2])
    return bool(row[_WAYS].any()) and after.grounded and moved < _STUCK * seconds


def _tick(blocks: np.ndarray, player: Player, done: dict, seconds: float) -> Player:
    yaw = player.yaw + _TURN * seconds * (done["right"] - done["left"])
    pitch = player.pitch + _LOOK * seconds * (done["up"] - done["down"])
    pitch = min(max(pitch, -_STEEPEST), _STEEPEST)
    ahead = done["forward"] * _WALK - done["back"] * _BACK
    aside = (done["step_right"] - done["step_left"]) * _WALK
    speed = math.hypot(ahead, aside)
    ahead, aside = (a * min(1, _WALK / speed) if speed else 0 for a in (ahead, aside))
    sin, cos = math.sin(math.radians(yaw)), math.cos(math.radians(yaw))
    feet, sunk = player.feet, max(0.0, player.sunk - _LIFT * seconds)
    for axis, distance in (
        (0, -sin * ahead - cos * aside),
        (2, cos * ahead - sin * aside),
    ):
        feet, climbed = _walk(blocks, feet, axis, distance * seconds, player.grounded)
        sunk += climbed
    rise = player.rise
    if done["jump"] and player.grounded:
        rise = _JUMP
    rise = max(rise - _GRAVITY * seconds, -_FASTEST)
    wanted = rise * seconds
    feet, fallen = _slide(blocks, feet, 1, wanted)
    stopped = fallen != wanted
    return Player(
        feet,
        yaw,
        pitch,
        0.0 if stopped else rise,
        stopped and wanted < 0,
        min(sunk, 1.0),
    )


def _walk(
    blocks: np.ndarray, feet: tuple, axis: int, distance: float, grounded: bool
) -> tuple[tuple, float]:
    """Moves feet along x or z; returns them and their climb, at most one block."""
    moved, gone = _slide(blocks, feet, axis, distance)
    if gone == distance or not grounded:
        return moved, 0.0
    above = (feet[0], math.floor(feet[1] + _NEAR) + 1 + _NEAR, feet[2])
    if not is_free(blocks, above):
        return moved, 0.0
    stepped, went = _slide(blocks, above, axis, distance)
    return (stepped, above[1] - feet[1]) if went == distance else (moved, 0.0)


def _slide(
    blocks: np.ndarray, feet: tuple, axis: int, distance: float
) -> tuple[tuple, float]:
    """Moves feet along an axis while the body is free; returns them and the length."""
    target = list(feet)
    target[axis] += distance
    if distance == 0 or is_free(blocks, tuple(target)):
        return tuple(target), distance
    low, high = (0.0, _HEIGHT) if axis == 1 else (-_HALF, _HALF)
    # In a tick nothing moves half a block: the obstacle begins at the next border,
    # which is half a cell further for a body that falls on water.
    if distance > 0:
        target[axis] = math.ceil(feet[axis] + high) - _NEAR - high
    else:
        cells = 2 if axis == 1 else 1
        target[axis] = math.floor((feet[axis] + low) * cells) / cells + _NEAR - low
    return tuple(target), target[axis] - feet[axis]

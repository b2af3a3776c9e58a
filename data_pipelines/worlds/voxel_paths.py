"""Starts of views: outlooks for a player, and the paths of a free camera."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.worlds.voxel_player import EYES, Player, is_free
from data_pipelines.worlds.voxel_terrain import SEA, SIZE, TALL, Land

_TRIES = 200  # candidate positions for a start
_OUTLOOKS = 6  # candidates, of which the most open one is used
_CLEAR = 2  # blocks between a free camera and any block


class Path(NamedTuple):
    """A free camera's path; angles in degrees, as in `voxel_view.camera`."""

    position: Float[np.ndarray, "t 3"]
    yaw: Float[np.ndarray, " t"]
    pitch: Float[np.ndarray, " t"]


def surface(grid: UInt8[np.ndarray, "x y z"]) -> Int[np.ndarray, "x z"]:
    """Returns the height of the top of each column's highest block, with plants."""
    return TALL - np.argmax(grid[:, ::-1] != 0, axis=1)


def start_player(rng: np.random.Generator, land: Land) -> Player:
    """Returns a player on dry ground who faces a fairly open view."""
    tops = surface(land.grid)
    outlooks: list[tuple[float, Player]] = []
    for _ in range(_TRIES):
        x, z = rng.integers(0, SIZE, 2)
        feet = (x + 0.5, float(land.ground[x, z] + 1) + 1e-6, z + 0.5)
        yaw = float(rng.uniform(0, 360))
        if land.ground[x, z] >= SEA and is_free(land.grid, feet):
            player = Player(feet, yaw, float(rng.uniform(-12, 4)))
            outlooks.append((_steepness(tops, player.eyes, yaw), player))
        if len(outlooks) == _OUTLOOKS:
            break
    assert outlooks, "a land without dry ground"
    return min(outlooks, key=lambda outlook: outlook[0])[1]


def _steepness(tops: np.ndarray, eyes: np.ndarray, yaw: float) -> float:
    """Returns the steepest rise to the land ahead, within 24 blocks."""
    away = np.arange(1, 25)
    x = np.floor(eyes[0] - away * np.sin(np.radians(yaw))).astype(int) % SIZE
    z = np.floor(eyes[2] + away * np.cos(np.radians(yaw))).astype(int) % SIZE
    return float(((tops[x, z] - eyes[1]) / away).max())


def draw_path(
    rng: np.random.Generator, land: Land, frames: int, fps: float
) -> tuple[str, Path]:
    """Returns a kind of `PATHS`, and a path of that kind that hits nothing."""
    kind = list(PATHS)[int(rng.integers(len(PATHS)))]
    seconds = np.arange(frames) / fps
    path = PATHS[kind](rng, surface(land.grid), start_player(rng, land), seconds)
    return kind, path


def _lifted(
    tops: np.ndarray, x: np.ndarray, z: np.ndarray, wanted: float
) -> np.ndarray:
    """Returns the positions at one height: `wanted`, or higher if necessary."""
    around = np.arange(-_CLEAR, _CLEAR + 1)
    columns = tops[
        (np.floor(x).astype(int)[:, None, None] + around[:, None]) % SIZE,
        (np.floor(z).astype(int)[:, None, None] + around) % SIZE,
    ]
    height = max(wanted, columns.max() + _CLEAR / 2)
    return np.stack([x, np.full(len(x), height), z], axis=1)


def _orbit(
    rng: np.random.Generator, tops: np.ndarray, player: Player, seconds: np.ndarray
) -> Path:
    """Circles around a spot where a player might stand, looking at it."""
    x, y, z = player.feet
    radius, rate = rng.uniform(9, 18), rng.uniform(12, 32) * rng.choice([-1, 1])
    angle = np.radians(rng.uniform(0, 360) + rate * seconds)
    position = _lifted(
        tops,
        x + radius * np.cos(angle),
        z + radius * np.sin(angle),
        y + rng.uniform(0.3, 0.6) * radius,
    )
    to = np.array([x, y + 1, z]) - position
    yaw = np.unwrap(np.arctan2(-to[:, 0], to[:, 2]))
    pitch = np.arctan2(to[:, 1], np.hypot(to[:, 0], to[:, 2]))
    return Path(position, np.degrees(yaw), np.degrees(pitch))


def _flight(
    rng: np.random.Generator, tops: np.ndarray, player: Player, seconds: np.ndarray
) -> Path:
    """Flies forward over the land, in a slight bend."""
    speed, bend = rng.uniform(3, 8), rng.uniform(-10, 10)
    yaw = player.yaw + bend * seconds
    step = speed * np.gradient(seconds) if len(seconds) > 1 else np.zeros(1)
    x = player.feet[0] - np.cumsum(step * np.sin(np.radians(yaw)))
    z = player.feet[2] + np.cumsum(step * np.cos(np.radians(yaw)))
    position = _lifted(tops, x, z, player.feet[1] + rng.uniform(3, 7))
    return Path(position, yaw, np.full(len(yaw), rng.uniform(-24, -8)))


def _turn(
    rng: np.random.Generator, tops: np.ndarray, player: Player, seconds: np.ndarray
) -> Path:
    """Turns on the spot, at eye height or slightly above."""
    rate = rng.uniform(14, 45) * rng.choice([-1, 1])
    x, z = (np.full(len(seconds), player.feet[i]) for i in (0, 2))
    position = _lifted(tops, x, z, player.feet[1] + EYES + rng.uniform(0, 4))
    pitch = np.full(len(seconds), rng.uniform(-16, -2))
    return Path(position, player.yaw + rate * seconds, pitch)


PATHS: dict[str, Callable[..., Path]] = {
    "orbit": _orbit,
    "flight": _flight,
    "turn": _turn,
}

"""A player's actions: rows of one per frame, from text or drawn at random."""

from collections.abc import Generator

import numpy as np
from jaxtyping import Float

from soraxla.packing import controls

# A row of actions has a number for each: 1 for done, 0 for not.
ACTIONS = (
    "forward",
    "back",
    "left",  # turns
    "right",
    "up",  # looks
    "down",
    "jump",
    "dig",  # the block in the middle of the view, at most 5 blocks away
    "place",  # a block against it
    "step_left",
    "step_right",
)


def parse_actions(*steps: str) -> Float[np.ndarray, "t a"]:
    """Parses rows of `ACTIONS`; see `soraxla.packing.controls.parse_actions`."""
    return controls.parse_actions(steps, ACTIONS)


Script = Generator[Float[np.ndarray, " a"], bool | None, None]


def wander(rng: np.random.Generator, fps: float) -> Script:
    """Yields endless rows of walking, turning, digging and building, drawn by scenes.

    `send(stopped)` requests the next row and states whether the player was stopped in
    the previous one; a player who is stopped for a while turns away.
    """
    scenes = (_stroll, _stroll, _look_around, _mine, _mine, _build, _hop, _sidestep)
    stopped = 0
    while True:
        turns = stopped > _PATIENCE * fps
        scene = _turn_away if turns else scenes[int(rng.integers(len(scenes)))]
        stopped = 0
        for row in _rows(scene(rng), fps):
            stopped = stopped + 1 if (yield row) else 0
            if stopped > _PATIENCE * fps:
                break


def replay(rows: Float[np.ndarray, "n a"]) -> Script:
    """Yields the rows, then rows of zeros."""
    for row in rows:  # noqa: UP028 - `yield from` would send to the array
        yield row
    while True:
        yield np.zeros(len(ACTIONS), np.float32)


_PATIENCE = 0.3  # seconds
_Scene = list[tuple[str, float]]  # actions and their seconds; 0 is one frame


def _rows(scene: _Scene, fps: float) -> np.ndarray:
    items = [f"{names}*{max(1, round(seconds * fps))}" for names, seconds in scene]
    return parse_actions(*items)


def _side(rng: np.random.Generator) -> str:
    return ("left", "right")[int(rng.integers(2))]


def _stroll(rng: np.random.Generator) -> _Scene:
    script = [("forward", rng.uniform(0.6, 1.8))]
    if rng.random() < 0.6:
        script.append((f"forward+{_side(rng)}", rng.uniform(0.2, 0.7)))
        script.append(("forward", rng.uniform(0.4, 1.2)))
    return script


def _look_around(rng: np.random.Generator) -> _Scene:
    return [(_side(rng), rng.uniform(0.3, 1.1)), ("wait", 0.15)]


def _mine(rng: np.random.Generator) -> _Scene:
    looked = rng.uniform(0.5, 0.85)
    digs = [("dig", 0.0), ("wait", 0.25)] * int(rng.integers(1, 4))
    return [("down", looked), *digs, ("up", looked), ("wait", 0.1)]


def _build(rng: np.random.Generator) -> _Scene:
    looked = rng.uniform(0.35, 0.6)
    more = [(_side(rng), rng.uniform(0.25, 0.4)), ("place", 0.0), ("wait", 0.2)]
    more *= int(rng.integers(0, 3))
    return [("down", looked), ("place", 0.0), ("wait", 0.2), *more, ("up", looked)]


def _hop(rng: np.random.Generator) -> _Scene:
    return [("forward", 0.3), ("forward+jump", 0.2), ("forward", rng.uniform(0.4, 0.9))]


def _sidestep(rng: np.random.Generator) -> _Scene:
    return [(f"step_{_side(rng)}", rng.uniform(0.4, 0.9))]


def _turn_away(rng: np.random.Generator) -> _Scene:
    return [(_side(rng), rng.uniform(0.7, 1.5)), ("forward", rng.uniform(0.5, 1.2))]

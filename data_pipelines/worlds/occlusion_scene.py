"""Shapes, walls and motion of the world `occlusion`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.worlds import draw
from data_pipelines.worlds.words import one_of

# Steps in x and y.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "right": (1, 0),
    "left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up right": (1, -1),
    "down right": (1, 1),
    "up left": (-1, -1),
    "down left": (-1, 1),
}
_STRAIGHT = tuple(DIRECTIONS)[:4]
_NAMES = tuple(draw.SHAPES)
_WIDTHS = ((0.0, 0.0), (1.8, 2.8), (1.3, 1.9))  # for no, one and two walls, in radii

WALLS: dict[str, tuple[int, int, int]] = {
    "grey": (132, 134, 138),
    "dark grey": (86, 88, 94),
    "brown": (126, 84, 52),
    "beige": (198, 172, 132),
}

Triple = tuple[str, str, str]  # colour, shape, direction

# Three of each colour's 32 (shape, straight direction): 3 or 4 of each shape's 40, 7 or
# 8 of each direction's 80, so every pair of the three stays common.
HELD_OUT: frozenset[Triple] = frozenset(
    (colour, _NAMES[(i + 3 * j) % 8], _STRAIGHT[(2 * i + i // 4 + j) % 4])
    for i, colour in enumerate(draw.COLOURS)
    for j in range(3)
)


class Shape(NamedTuple):
    colour: str
    shape: str
    direction: str  # "" at rest
    radius: float


class Scene(NamedTuple):
    backdrop: str
    wall_colour: str  # "" without walls
    walls: Float[np.ndarray, "m 4"]
    shapes: list[Shape]  # the last is nearest
    position: Float[np.ndarray, "t n 2"]


def draw_scene(
    rng: np.random.Generator,
    width: int,
    height: int,
    frames: int,
    triple: Triple | None,
) -> Scene:
    count = 1 if triple or rng.random() < 0.5 else int(rng.integers(2, 4))
    upright = bool(rng.random() < 0.5)
    if triple and 0 in DIRECTIONS[triple[2]]:
        upright = DIRECTIONS[triple[2]][1] == 0
    size = np.array((width, height), float)
    along = size[0] if upright else size[1]
    two = 0.3 if along >= 80 else 0.1
    wall_count = int(
        rng.choice(3, p=(0, 1 - two, two) if triple else (0.2, 0.8 - two, two))
    )
    # Zones before, between and behind the walls, in which a shape is entirely in view.
    zones = wall_count + 1
    room = zones * 2 * draw.REACH + wall_count * _WIDTHS[wall_count][1]
    largest = min(
        (along - zones) / room,
        (0.125 if wall_count or count > 1 else 0.18) * min(size),
    )
    radii = largest * rng.uniform(0.8, 1.0, count)
    walls = _walls(rng, along, wall_count, max(radii))
    shapes = _shapes(rng, radii, upright if wall_count else None, frames, triple)
    ends = _ends(rng, shapes, size, upright, walls)  # (2,N,2)
    share = np.linspace(0, 1, frames)[:, None, None]
    spans = np.array([(0, 0, width, height)] * wall_count, float).reshape(-1, 4)
    spans[:, (0, 2) if upright else (1, 3)] = walls
    wall_colour = str(rng.choice(list(WALLS))) if wall_count else ""
    seen = [draw.COLOURS[shape.colour] for shape in shapes]
    seen += [WALLS[wall_colour]] if wall_count else []
    return Scene(
        backdrop=one_of(rng, draw.apart(draw.BACKDROPS, seen)),
        wall_colour=wall_colour,
        walls=spans,
        shapes=shapes,
        position=ends[0] + share * (ends[1] - ends[0]),
    )


def _walls(
    rng: np.random.Generator, along: float, count: int, radius: float
) -> Float[np.ndarray, "m 2"]:
    """Returns starts and ends of walls on the path, with room for shapes between."""
    widths = radius * rng.uniform(*_WIDTHS[count], count)
    zone = 2 * draw.REACH * radius + 1
    spare = max(along - widths.sum() - zone * (count + 1), 0)
    gaps = zone + spare * rng.dirichlet(np.full(count + 1, 3.0))[:count]
    starts = np.cumsum(gaps) + np.cumsum(widths) - widths
    return np.stack([starts, starts + widths], 1)


def _shapes(
    rng: np.random.Generator,
    radii: np.ndarray,
    upright: bool | None,
    frames: int,
    triple: Triple | None,
) -> list[Shape]:
    """Returns the shapes' looks and directions; `upright` is the walls' or None."""
    if triple is not None:
        return [Shape(*triple, float(radii[0]))]
    across = [
        name
        for name, step in DIRECTIONS.items()
        if upright is None or step[0 if upright else 1]
    ]
    chance = np.array([1.0 if name in _STRAIGHT else 0.25 for name in across])
    colours = rng.choice(list(draw.COLOURS), len(radii), replace=False)
    shapes = []
    for colour, radius in zip(colours, radii, strict=True):
        rests = frames == 1 or rng.random() < 0.08
        while True:
            name = str(rng.choice(_NAMES))
            direction = (
                "" if rests else str(rng.choice(across, p=chance / chance.sum()))
            )
            if (str(colour), name, direction) not in HELD_OUT:
                break
        shapes.append(Shape(str(colour), name, direction, float(radius)))
    return shapes


def _ends(
    rng: np.random.Generator,
    shapes: list[Shape],
    size: np.ndarray,
    upright: bool,
    walls: np.ndarray,
) -> Float[np.ndarray, "2 n 2"]:
    """Returns each shape's centre at the start and the end, both in full view."""
    axis = 0 if upright else 1  # the axis that walls cross
    lanes = rng.permutation(len(shapes))
    ends = np.empty((2, len(shapes), 2))
    for k, shape in enumerate(shapes):
        reach = draw.REACH * shape.radius
        low, high = np.full(2, reach), size - reach
        step = np.array(DIRECTIONS.get(shape.direction, (0, 0)))
        first, last = low + 0.25 * (high - low), low + 0.75 * (high - low)
        if len(walls):
            first[axis], last[axis] = walls[0, 0] - reach, walls[-1, 1] + reach
        start, end = rng.uniform(low, first), rng.uniform(last, high)
        start, end = np.where(step < 0, end, start), np.where(step < 0, start, end)
        # Each moving shape keeps to a separate lane; one at rest, to a side.
        lane = low + (high - low) * (lanes[k] + rng.uniform(0.2, 0.8)) / len(shapes)
        still = np.where(step == 0, lane, start)
        if not step.any() and len(walls):
            still[axis] = start[axis] if rng.random() < 0.5 else end[axis]
        ends[:, k] = still, np.where(step == 0, still, end)
    return ends

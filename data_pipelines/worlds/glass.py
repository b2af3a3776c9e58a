"""A glass, a vase or a bowl that falls from a shelf and breaks into pieces."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import draw
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.words import NUMBERS, article, one_of

_FLOORS = {"tiled": (178, 176, 170), "wooden": (150, 108, 68), "stone": (118, 120, 124)}
_SHELF = (96, 62, 38)
_LONGEST = 2.0  # seconds that the fall and the breaking take at most
_GAP = 2.5  # pixels between pieces at rest

_FORMS = (
    "{thing} falls from a shelf and breaks into {count} pieces",
    "{thing} falls onto a {floor} floor and breaks into {count} pieces",
    "{thing} slides off a shelf, falls and shatters into {count} pieces",
    "{thing} breaks into {count} pieces on a {floor} floor",
    "{count} pieces are left of {thing} that falls from a shelf",
    "on a {floor} floor, {thing} breaks into {count} pieces",
)
_PICTURES = (
    "{thing} that broke into {count} pieces",
    "{count} pieces of {thing} on a {floor} floor",
)


class _Fall(NamedTuple):
    """Times in seconds, places in pixels: the thing slides, falls, and breaks."""

    edge_time: float  # the shelf no longer carries it
    break_time: float
    rest_time: float
    start: Float[np.ndarray, "2"]
    slide: float  # pixels per second
    drop: float  # pixels of the fall
    turn: float  # radians at the end of the fall


class _Pieces(NamedTuple):
    """K sectors about the middle of a thing: bounds, middles, sizes and final poses."""

    angle: Float[np.ndarray, "k"]  # a sector ends where the next begins
    middle: Float[np.ndarray, "k 2"]  # from the thing's middle
    rest: Float[np.ndarray, "k 2"]
    turn: Float[np.ndarray, "k"]
    hop: Float[np.ndarray, "k"]


def _glass(x: draw.Plane, y: draw.Plane, r: float) -> draw.Plane:
    return np.maximum(np.abs(x) - (0.66 - 0.16 * y / r) * r, np.abs(y) - 0.86 * r)


def _vase(x: draw.Plane, y: draw.Plane, r: float) -> draw.Plane:
    belly = np.maximum(draw.circle(x, y - 0.2 * r, 0.76 * r), y - 0.86 * r)
    return np.minimum(belly, draw.box(x, y + 0.6 * r, 0.34 * r, 0.36 * r))


def _bowl(x: draw.Plane, y: draw.Plane, r: float) -> draw.Plane:
    half = np.maximum(draw.circle(x, y + 0.45 * r, 1.1 * r), -0.45 * r - y)
    return np.minimum(half, draw.box(x, y - 0.68 * r, 0.5 * r, 0.14 * r))


THINGS = {"glass": _glass, "vase": _vase, "bowl": _bowl}


def draw_glass(
    rng: np.random.Generator,
    width: int,
    height: int,
    frames: int,
    fps: float,
    failed: bool,
) -> Episode:
    """Draws a thing that falls and breaks into two to four pieces, which add up to it.

    A picture shows the pieces at rest. `ids` counts pieces, also of the whole thing. A
    failure is a piece that vanishes, or one too many. The state, of K pieces:

    - `thing`, `colour`, `floor` (): names; `pieces` (): K
    - `break_time`, `rest_time` (): seconds from the first frame; 0 in a picture
    - `position` (T,2): x and y of the whole thing's middle in pixels, NaN once broken
    - `shown` (T,): pieces that exist, K without a failure
    """
    thing, floor = one_of(rng, list(THINGS)), one_of(rng, list(_FLOORS))
    room = one_of(rng, list(draw.BACKDROPS))
    seen = [draw.BACKDROPS[room], _FLOORS[floor], _SHELF]
    colour = one_of(rng, draw.apart(draw.COLOURS, seen))
    unit = float(min(width, height))
    radius, ground = unit * rng.uniform(0.145, 0.165), 0.72 * height
    length = min((frames - 1) / fps, _LONGEST) if frames > 1 else 1.0
    fall = _fall(rng, width, ground, radius, length)
    pieces = _pieces(rng, thing, radius, width, height, ground)
    count, vanishes = len(pieces.angle), bool(rng.random() < 0.5)
    time = np.arange(frames) / fps if frames > 1 else np.array([length])
    back = _room(rng, fall, width, height, ground, radius, room, floor)
    canvas = np.repeat(back[None], frames, 0)
    wrong = failed & (time >= (fall.break_time + 2 * fall.rest_time) / 3)
    ids = np.zeros(canvas.shape[:3], np.uint8)
    body = THINGS[thing], radius, np.asarray(draw.COLOURS[colour], np.float32)
    for k in range(count + failed * (not vanishes)):
        which = k % count
        exists = ~wrong if k == count - 1 and vanishes else np.ones(frames, bool)
        exists = wrong if k == count else exists
        aside = (0.0, -0.3 * height) if k == count else (0.0, 0.0)
        cover = _piece(canvas, body, fall, pieces, which, time, exists, aside)
        ids[cover] = k + 1
    broken = (time >= fall.break_time)[:, None]
    state = {
        "object": np.array([f"piece {k + 1}" for k in range(count)]),
        "thing": np.array(thing),
        "colour": np.array(colour),
        "floor": np.array(floor),
        "pieces": np.array(count),
        "break_time": np.array(fall.break_time if frames > 1 else 0.0),
        "rest_time": np.array(fall.rest_time if frames > 1 else 0.0),
        "position": np.where(broken, np.nan, _whole(fall, time)[0]),
        "shown": count + np.where(wrong, -1 if vanishes else 1, 0),
    }
    caption = one_of(rng, _FORMS if frames > 1 else _PICTURES).format(
        thing=article(f"{colour} {thing}"), floor=floor, count=NUMBERS[count]
    )
    return draw.flat_episode(canvas, ids, fps=fps, caption=caption, state=state)


def _fall(
    rng: np.random.Generator, width: int, ground: float, radius: float, length: float
) -> _Fall:
    edge_time = length * rng.uniform(0.1, 0.18)
    falling = length * rng.uniform(0.22, 0.28)
    side = 1 if rng.random() < 0.5 else -1  # that it falls to
    shelf = rng.uniform(0.3, 0.42) * width
    x = shelf if side > 0 else width - shelf
    drop = ground - 0.86 * radius - rng.uniform(2.1, 2.5) * radius
    start = np.array((x - side * 0.25 * radius, ground - 0.86 * radius - drop))
    slide = side * 0.25 * radius / edge_time
    turn = side * rng.uniform(0.3, 1.0)
    broken = edge_time + falling
    return _Fall(
        edge_time, broken, broken + 0.22 * length, start, float(slide), drop, turn
    )


def _pieces(
    rng: np.random.Generator,
    thing: str,
    radius: float,
    width: int,
    height: int,
    ground: float,
) -> _Pieces:
    """Returns pieces that, at rest, do not touch each other."""
    count = int(rng.integers(2, 5))
    grid = (np.arange(64) + 0.5) / 32 - 1
    x, y = 1.2 * radius * grid[None, :], 1.2 * radius * grid[:, None]
    inside = THINGS[thing](x, y, radius) < 0
    step = 2 * np.pi / count
    loose = 0.14 if count > 2 else 0.0  # a sector is convex up to half a circle
    angle = rng.uniform(0, step) + step * (
        np.arange(count) + loose * rng.uniform(-1, 1, count)
    )
    which = _sector(angle, np.arctan2(y, x))
    x, y = x + 0 * y, y + 0 * x
    parts = [inside & (which == k) for k in range(count)]
    middle = np.array([(x[part].mean(), y[part].mean()) for part in parts])
    reach = np.array(
        [
            np.hypot(x[part] - mx, y[part] - my).max()
            for part, (mx, my) in zip(parts, middle, strict=True)
        ]
    )
    order = np.empty(count, int)
    order[np.argsort(middle[:, 0])] = np.arange(count)  # pieces do not cross
    spare = max(width - 2 * reach.sum() - 2 * _GAP, 0.0)
    sizes = np.array([reach[np.flatnonzero(order == k)[0]] for k in range(count)])
    gaps = _GAP / 2 + spare * rng.dirichlet(np.full(count + 1, 3.0))[:count]
    place = np.cumsum(gaps + 2 * sizes) - sizes
    room = height - ground
    rest = np.stack([place[order], ground + room * rng.uniform(0.1, 0.5, count)], 1)
    rest[:, 1] = np.minimum(rest[:, 1], height - reach - 1)
    turn = rng.uniform(-1.5, 1.5, count)
    return _Pieces(angle, middle, rest, turn, radius * rng.uniform(0.5, 1.6, count))


def _sector(
    angle: Float[np.ndarray, "k"], at: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Returns the sector of each direction: the last whose bound it has passed."""
    past = np.mod(at[..., None] - angle, 2 * np.pi)
    return past.argmin(-1).astype(float)


def _room(
    rng: np.random.Generator,
    fall: _Fall,
    width: int,
    height: int,
    ground: float,
    radius: float,
    room: str,
    floor: str,
) -> Float[np.ndarray, "h w 3"]:
    """Draws wall, floor, and the shelf from which the thing falls."""
    x, y = draw.pixel_grid(width, height)
    back = draw.backdrop(rng, width, height, draw.BACKDROPS[room])[None]
    grain = 6 * draw.noise(rng, width, height, 24.0) - 14 * (y - ground) / height
    stone = np.asarray(_FLOORS[floor], np.float32) + grain[..., None]
    edge = ground - 0.03 * height
    draw.over(back, (0, 0, 0), 0.25 * draw.soft(edge - 1 - y + 0 * x, 4.0)[None])
    draw.over(back, stone, draw.coverage(edge - y + 0 * x)[None])
    end = fall.start[0] + fall.slide * fall.edge_time
    along = x - end if fall.slide > 0 else end - x
    top = fall.start[1] + 0.86 * radius
    shelf = np.maximum(along, np.maximum(top - y, y - top - 0.05 * height))
    draw.over(back, (0, 0, 0), 0.3 * draw.soft(shelf - 1, 4.0)[None])
    draw.over(back, _SHELF, draw.coverage(shelf)[None])
    return back[0]


def _whole(
    fall: _Fall, time: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, " t"]]:
    """Returns the middle and the turn of the unbroken thing; it falls freely."""
    held = time.clip(0, fall.break_time)
    part = (held - fall.edge_time).clip(0) / (fall.break_time - fall.edge_time)
    x = fall.start[0] + fall.slide * held
    return np.stack([x, fall.start[1] + fall.drop * part**2], 1), fall.turn * part


def _piece(
    canvas: Float[np.ndarray, "t h w 3"],
    body: tuple,
    fall: _Fall,
    pieces: _Pieces,
    k: int,
    time: Float[np.ndarray, " t"],
    exists: Bool[np.ndarray, " t"],
    aside: tuple[float, float],
) -> Bool[np.ndarray, "t h w"]:
    """Draws a piece, which flies in an arc from its place in the whole to its rest."""
    shape, radius, colour = body
    middle, turn = _whole(fall, time)
    cos, sin = np.cos(turn), np.sin(turn)
    px, py = pieces.middle[k]
    at = middle + np.stack([cos * px - sin * py, sin * px + cos * py], 1)
    broken = fall.rest_time - fall.break_time
    share = ((time - fall.break_time) / broken).clip(0, 1)
    at = at + share[:, None] * (pieces.rest[k] + aside - at)
    at[:, 1] -= 4 * pieces.hop[k] * share * (1 - share)
    turn = turn + share * pieces.turn[k]
    x, y = draw.pixel_grid(canvas.shape[2], canvas.shape[1])
    at, turn = at.astype(np.float32), turn[:, None, None].astype(np.float32)
    dx, dy = x - at[:, 0, None, None], y - at[:, 1, None, None]
    cos, sin = np.cos(turn), np.sin(turn)
    lx, ly = cos * dx + sin * dy + px, cos * dy - sin * dx + py
    distance = shape(lx, ly, radius)
    count, joined = len(pieces.angle), (time < fall.break_time)[:, None, None]
    for bound, side in ((pieces.angle[k], 1), (pieces.angle[(k + 1) % count], -1)):
        cut = side * (lx * np.sin(bound) - ly * np.cos(bound))
        cut = cut - 0.7 * joined  # no cracks before
        distance = np.maximum(distance, cut.astype(np.float32))
    cover = draw.coverage(distance) * exists[:, None, None]
    light = 1.04 - 0.14 * lx / radius
    lit = light[..., None].astype(np.float32) * colour
    draw.over(canvas, lit, cover)
    return cover > 0.5

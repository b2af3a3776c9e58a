"""A candle that is blown out, or burns on."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import draw
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.words import article, one_of

WAXES = ("red", "green", "cyan", "blue", "purple", "pink", "white")  # none of a flame
_ROOMS = ("slate blue", "dark grey", "navy", "dark teal")  # smoke is lighter
_TABLES = {"wooden": (112, 76, 46), "grey": (104, 106, 112), "white": (176, 174, 170)}
_OUTER, _INNER, _SMOKE = (255, 138, 32), (255, 240, 168), (196, 196, 200)
_BREATH = 0.35  # seconds that a breath takes to put out the flame
_RISE, _LIFE, _PUFFS = 0.42, 1.3, 9  # of smoke: heights a second; seconds; per second

_BLOWN = (
    "{candle} is blown out",
    "{candle} is blown out and smoke rises",
    "someone blows out {candle}",
    "a breath from the {side} puts out {candle}",
    "the flame of {candle} is blown out, and smoke rises from the wick",
    "on a {table} table, {candle} is blown out",
    "a breath puts out {candle} in a {room} room",
)
_BURNS = (
    "{candle} burns",
    "{candle} burns on a {table} table",
    "the flame of {candle} flickers",
    "{candle} gives light in a {room} room",
    "nobody blows out {candle}, and it burns on",
)
_SMOKES = ("{candle} that was just blown out", "smoke above {candle}")
_LIT = ("{candle} with a flame", "{candle} that burns on a {table} table")


class _Candle(NamedTuple):
    """A candle's place and size in pixels; `wick` is where the flame starts."""

    unit: float
    wick: tuple[float, float]
    foot: float
    half: float  # of the width
    flame: float  # height


def draw_candle(
    rng: np.random.Generator,
    width: int,
    height: int,
    frames: int,
    fps: float,
    failed: bool,
) -> Episode:
    """Draws a candle, which in half of the clips is blown out by a visible breath.

    The flame leans until it goes out at once; then smoke rises. `ids` counts candle,
    flame and smoke. A failure is a flame that lights itself again, or, if nobody blows,
    one that goes out. The state:

    - `colour`, `table`, `room` (): names; `side` (): "left" or "right", "" without a
      breath
    - `lit` (T,): bool, the flame burns
    - `out_time` (): seconds from the first frame, NaN if nobody blows
    - `wick` (2,): x and y of its end, in pixels
    - `flame` (): height in pixels
    """
    colour, table = one_of(rng, WAXES), one_of(rng, list(_TABLES))
    room, side = one_of(rng, _ROOMS), one_of(rng, ("left", "right"))
    blown = bool(rng.random() < 0.5)
    candle = _place(rng, width, height)
    share, again = rng.uniform(0.38, 0.58), rng.uniform(0.3, 0.6)
    out = max(round(share * frames), 1) if frames > 1 else -round(0.6 * fps)
    back = out + max(round(again * (frames - out)), 2)
    frame = np.arange(frames)
    lit = frame < out if blown else np.ones(frames, bool)
    if failed:
        lit ^= frame >= back
    time = (frame - (out if blown else 2 * frames)) / fps  # since the flame went out
    canvas = np.repeat(_room(rng, candle, width, height, room, table)[None], frames, 0)
    ids = np.zeros(canvas.shape[:3], np.uint8)
    _light(canvas, candle, lit)
    ids[:, _wax(canvas, candle, colour)] = 1
    ids[_flame(rng, canvas, candle, lit, time, side)] = 2
    ids[_smoke(rng, canvas, candle, time, side)] = 3
    _breath(rng, canvas, candle, time, side)
    state = {
        "object": np.array(["candle", "flame", "smoke"]),
        "colour": np.array(colour),
        "table": np.array(table),
        "room": np.array(room),
        "side": np.array(side if blown else ""),
        "lit": lit,
        "out_time": np.array(out / fps if blown else np.nan),
        "wick": np.array(candle.wick),
        "flame": np.array(candle.flame),
    }
    moving, picture = (_BLOWN, _SMOKES) if blown else (_BURNS, _LIT)
    caption = one_of(rng, moving if frames > 1 else picture).format(
        candle=article(f"{colour} candle"), side=side, table=table, room=room
    )
    return draw.flat_episode(canvas, ids, fps=fps, caption=caption, state=state)


def _place(rng: np.random.Generator, width: int, height: int) -> _Candle:
    unit = float(min(width, height))
    x = width * rng.uniform(0.36, 0.64)
    foot = height - unit * rng.uniform(0.1, 0.16)
    top = foot - unit * rng.uniform(0.26, 0.36)
    wick = (float(x), float(top - 0.045 * unit))
    half, flame = unit * rng.uniform(0.075, 0.1), unit * rng.uniform(0.19, 0.23)
    return _Candle(unit, wick, float(foot), float(half), float(flame))


def _room(
    rng: np.random.Generator,
    candle: _Candle,
    width: int,
    height: int,
    room: str,
    table: str,
) -> Float[np.ndarray, "h w 3"]:
    x, y = draw.pixel_grid(width, height)
    back = draw.backdrop(rng, width, height, draw.BACKDROPS[room])[None]
    edge = candle.foot - 0.05 * candle.unit
    grain = 6 * draw.noise(rng, width, height, 22.0)
    wood = np.asarray(_TABLES[table], np.float32) + grain[..., None]
    draw.over(back, wood, draw.coverage(edge - y + 0 * x)[None])
    return back[0]


def _from_wick(canvas: np.ndarray, candle: _Candle) -> tuple[draw.Plane, draw.Plane]:
    x, y = draw.pixel_grid(canvas.shape[2], canvas.shape[1])
    return x - np.float32(candle.wick[0]), y - np.float32(candle.wick[1])


def _light(
    canvas: Float[np.ndarray, "t h w 3"], candle: _Candle, lit: Bool[np.ndarray, " t"]
) -> None:
    """Adds the flame's light to the room, which is darker without it."""
    dx, dy = _from_wick(canvas, candle)
    far = draw.circle(dx, dy + 0.5 * candle.flame, 0.0) / np.float32(candle.unit)
    glow = np.exp(-((far / 0.3) ** 2)).astype(np.float32)
    canvas[~lit] *= np.float32(0.85)
    canvas[lit] += glow[..., None] * np.asarray((80, 52, 20), np.float32)


def _wax(
    canvas: Float[np.ndarray, "t h w 3"], candle: _Candle, colour: str
) -> Bool[np.ndarray, "h w"]:
    """Draws wax and wick; returns their pixels."""
    dx, dy = _from_wick(canvas, candle)
    top, tall = 0.045 * candle.unit, candle.foot - candle.wick[1] - 0.045 * candle.unit
    distance = draw.box(dx, dy - top - tall / 2, candle.half, tall / 2)
    draw.over(canvas, (0, 0, 0), 0.35 * draw.soft(distance - 1, 4.0)[None])
    light = 0.92 - 0.22 * (dx / candle.half) + 0 * dy
    wax = light[..., None] * np.asarray(draw.COLOURS[colour], np.float32)
    draw.over(canvas, wax, draw.coverage(distance)[None])
    wick = draw.capsule(dx, dy, (0.0, top), 0.014 * candle.unit + 0.2)
    draw.over(canvas, (30, 26, 24), draw.coverage(wick)[None])
    return np.minimum(distance, wick) < 0


def _flame(
    rng: np.random.Generator,
    canvas: Float[np.ndarray, "t h w 3"],
    candle: _Candle,
    lit: Bool[np.ndarray, " t"],
    time: Float[np.ndarray, " t"],
    side: str,
) -> Bool[np.ndarray, "t h w"]:
    """Draws a flame that flickers, and leans before a breath; returns its pixels."""
    sway, size = rng.normal(0, 0.05, len(time)), rng.uniform(0.94, 1.06, len(time))
    push = np.where(time < 0, (1 + time / _BREATH).clip(0, 1), 0)
    lean = sway + (1 if side == "left" else -1) * 0.75 * push
    tall = candle.flame * size * (1 - 0.18 * push)
    dx, dy = _from_wick(canvas, candle)
    tall, lean = (each[:, None, None].astype(np.float32) for each in (tall, lean))
    up = -dy / tall  # 0 at the wick, 1 at the tip
    across = dx - lean * tall * (up.clip(0, 1) ** 1.5)
    shape = np.sqrt(up.clip(0, 1)) * (1 - up.clip(0, 1)) * 2.4
    inside = np.float32(0.2 * candle.flame + 0.6) * shape
    distance = np.where((up > 0) & (up < 1), np.abs(across) - inside, 2.0)
    cover = draw.coverage(distance) * lit[:, None, None]
    core = draw.coverage(distance + 0.09 * candle.flame) * lit[:, None, None]
    draw.over(canvas, _OUTER, cover)
    draw.over(canvas, _INNER, core * (1.1 - 0.7 * up).clip(0, 1).astype(np.float32))
    return cover > 0.5


def _smoke(
    rng: np.random.Generator,
    canvas: Float[np.ndarray, "t h w 3"],
    candle: _Candle,
    time: Float[np.ndarray, " t"],
    side: str,
) -> Bool[np.ndarray, "t h w"]:
    """Draws puffs that rise from the wick, widen and fade; returns their pixels."""
    dx, dy = _from_wick(canvas, candle)
    wind, phase = (1 if side == "left" else -1) * rng.uniform(0.02, 0.12), rng.random(2)
    clear, after = np.ones(canvas.shape[:3], np.float32), time >= 0
    last = min(float(time[-1]), 1.5)
    for born in np.arange(0.0, last + 1e-6, 1 / _PUFFS):
        age = (time[after] - born)[:, None, None].astype(np.float32)
        old = (age / np.float32(_LIFE)).clip(0, 1)
        curl = 0.03 * np.sin(5 * age + 6 * (phase[0] + born)) * (1 + 2 * old)
        x = (wind * age + curl).astype(np.float32) * np.float32(candle.unit)
        y = -np.float32(_RISE * candle.unit) * age
        radius = np.float32(candle.unit) * (0.035 + 0.075 * old).astype(np.float32)
        far = np.sqrt((dx - x) ** 2 + (dy - y) ** 2) / radius
        thick = 0.62 * (1 - old) * (age >= 0)
        clear[after] *= 1 - thick * (1.25 - far).clip(0, 1).astype(np.float32)
    if after.any():
        draw.over(canvas, _SMOKE, 1 - clear)
    return clear < 0.75


def _breath(
    rng: np.random.Generator,
    canvas: Float[np.ndarray, "t h w 3"],
    candle: _Candle,
    time: Float[np.ndarray, " t"],
    side: str,
) -> None:
    """Draws streaks of air that reach the flame when it goes out."""
    dx, dy = _from_wick(canvas, candle)
    sign = -1 if side == "left" else 1
    blows = (time > -_BREATH - 0.1) & (time < 0.1)
    away = (-time[blows] / _BREATH)[:, None, None].clip(0, 1).astype(np.float32)
    air = canvas[blows]
    for place in rng.permutation(3):
        y = dy + np.float32(candle.flame * (0.25 + 0.3 * place))
        start = np.float32(sign * candle.unit) * (0.16 + (0.16 + 0.05 * place) * away)
        x = dx - start.astype(np.float32)
        streak = draw.capsule(x, y, (sign * 0.14 * candle.unit, 0.0), 0.8)
        draw.over(air, (236, 240, 246), 0.5 * draw.coverage(streak))
    canvas[blows] = air

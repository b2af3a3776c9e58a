"""Fish that swim past each other, and leave or enter only at the picture's sides."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import draw
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.words import NUMBERS, article, listed, one_of

_WATERS = {"blue": (58, 112, 158), "green": (54, 116, 104), "dark": (30, 48, 78)}
_SAND = (196, 174, 128)
_LEAVES, _ENTERS = 0.4, 0.1  # shares of fish
_SWIMS = ("swims", "glides", "moves")
_LAST = (0.7, 0.92)  # of a clip: the last of a fish that leaves is in view

_FORMS = ("{fish}", "{count} fish: {fish}", "in {water} water, {fish}")
_PICTURES = ("{fish} in {water} water", "{count} fish: {fish}", "{fish} under water")


class _Fish(NamedTuple):
    """N fish, each in a lane."""

    colour: list[str]
    length: Float[np.ndarray, "n"]
    position: Float[np.ndarray, "t n 2"]
    facing: Float[np.ndarray, "n"]  # 1 swims to the right, -1 to the left
    fate: list[str]  # "stays", "leaves" or "enters"


def draw_fish(
    rng: np.random.Generator,
    width: int,
    height: int,
    frames: int,
    fps: float,
    failed: bool,
) -> Episode:
    """Draws two to four fish, each of which swims in a lane at a constant speed.

    Some leave the picture at a side, or enter there. `ids` counts fish. A failure is a
    fish that vanishes in open water, or one too many that appears there. The state, of
    N fish:

    - `colour`, `direction`, `fate` (N,): names; `fate` is "stays", "leaves" or "enters"
    - `water` (): a name
    - `length` (N,): pixels
    - `position` (T,N,2): middles, x and y in pixels
    - `visible` (T,N): share in the picture
    - `shown` (T,): fish that are more than half in the picture
    """
    water = one_of(rng, list(_WATERS))
    fish = _school(rng, width, height, frames, water)
    count, vanishes = len(fish.colour), bool(rng.random() < 0.5)
    begin = round(frames * rng.uniform(0.5, 0.7))
    wrong = failed & (np.arange(frames) >= begin)
    visible = _visible(fish, width)
    victim = int((visible[begin:] == 1).sum(0).argmax())
    vanishes &= bool((visible[begin:, victim] == 1).all())
    exists = np.ones((frames, count), bool)
    exists[:, victim] = ~(wrong & vanishes)
    canvas = np.repeat(_water(rng, width, height, water)[None], frames, 0)
    ids = np.zeros(canvas.shape[:3], np.uint8)
    phase = rng.uniform(0, 6, count)
    for k in range(count):
        beat = np.sin(phase[k] + 9 * np.arange(frames) / fps)
        ids[_draw(canvas, fish, k, beat, exists[:, k])] = k + 1
    if failed and not vanishes:
        ghost = fish._replace(position=_free_place(fish, begin, width, height))
        ids[_draw(canvas, ghost, victim, np.zeros(frames), wrong)] = count + 1
    names = [*fish.colour, *[fish.colour[victim]] * (failed and not vanishes)]
    state = {
        "object": np.array([f"{colour} fish" for colour in names]),
        "colour": np.array(fish.colour),
        "direction": np.array(["right" if f > 0 else "left" for f in fish.facing]),
        "fate": np.array(fish.fate),
        "water": np.array(water),
        "length": fish.length,
        "position": fish.position,
        "visible": visible * exists,
        "shown": (visible * exists > 0.5).sum(1) + (wrong & (not vanishes)),
    }
    caption = _caption(rng, state, frames == 1)
    return draw.flat_episode(canvas, ids, fps=fps, caption=caption, state=state)


def _school(
    rng: np.random.Generator, width: int, height: int, frames: int, water: str
) -> _Fish:
    count = int(rng.integers(2, 5))
    red, green, blue = _WATERS[water]
    lights = [(red + k, green + k, blue + k) for k in (-20, 0, 30)]
    bright = {name: rgb for name, rgb in draw.COLOURS.items() if name != "black"}
    colours = rng.choice(draw.apart(bright, lights), count, replace=False)
    length = min(width, height) * rng.uniform(0.18, 0.23, count)
    facing = rng.choice((-1.0, 1.0), count)
    chances = (1 - _LEAVES - _ENTERS, _LEAVES, _ENTERS)
    fate = [str(rng.choice(("stays", "leaves", "enters"), p=chances)) for _ in facing]
    if frames == 1:
        fate = ["stays"] * count
    lanes = (rng.permutation(count) + rng.uniform(0.42, 0.58, count)) / count
    y = height * (0.04 + 0.8 * lanes)
    bob, phase = rng.uniform(0, 0.01 * height, count), rng.uniform(0, 6, count)
    share = np.linspace(0, 1, frames)
    path = np.empty((frames, count, 2))
    for k in range(count):
        reach = 0.62 * length[k]
        near_side, room = reach + 1, max(width - 2 * reach - 2, 1.0)
        ends = np.sort(rng.uniform(0, 1, 2)) * room + near_side
        if fate[k] != "stays":  # it crosses the side while the clip runs
            crossed = rng.uniform(*_LAST)
            first = near_side + room * rng.uniform(0.15, 0.55)
            ends = np.array((first, first + (width + reach - first) / crossed))
        if fate[k] == "enters":
            ends = width - ends[::-1]
        x = ends[0] + share * (ends[1] - ends[0])
        path[:, k, 0] = x if facing[k] > 0 else width - x
        path[:, k, 1] = y[k] + bob[k] * np.sin(phase[k] + 5 * share)
    return _Fish([str(c) for c in colours], length, path, facing, fate)


def _visible(fish: _Fish, width: int) -> Float[np.ndarray, "t n"]:
    """Returns the share of each fish's length that is in the picture."""
    ends = np.array((-1.2, 1.0))[:, None, None] * fish.facing * fish.length / 2
    ends = fish.position[..., 0] + ends
    return np.ptp(ends.clip(0, width), axis=0) / np.ptp(ends, axis=0)


def _free_place(
    fish: _Fish, begin: int, width: int, height: int
) -> Float[np.ndarray, "t n 2"]:
    """Returns positions at the place that is farthest from all fish and the sides."""
    x, y = (np.linspace(0.25, 0.75, 9)[:, None] * (width, height)).T
    spots = np.stack(np.meshgrid(x, y), -1).reshape(-1, 1, 1, 2)
    away = np.linalg.norm(spots - fish.position[None, begin:], axis=-1).min((1, 2))
    return np.broadcast_to(spots[away.argmax(), 0], fish.position.shape)


def _water(
    rng: np.random.Generator, width: int, height: int, water: str
) -> Float[np.ndarray, "h w 3"]:
    """Draws water, which is lighter above, over sand."""
    x, y = draw.pixel_grid(width, height)
    back = draw.backdrop(rng, width, height, _WATERS[water])[None]
    back += (26 * (0.5 - y / height))[..., None]
    waves = 0.012 * height * np.sin(x * rng.uniform(6, 10) / width * np.pi)
    grain = 8 * draw.noise(rng, width, height, 30.0)
    sand = np.asarray(_SAND, np.float32) * 0.8 + grain[..., None]
    bank = draw.coverage(0.93 * height + waves - y)
    draw.over(back, sand, bank[None])
    return back[0]


def _draw(
    canvas: Float[np.ndarray, "t h w 3"],
    fish: _Fish,
    k: int,
    beat: Float[np.ndarray, " t"],
    exists: Bool[np.ndarray, " t"],
) -> Bool[np.ndarray, "t h w"]:
    """Draws body, tail and eye; returns their pixels."""
    x, y = draw.pixel_grid(canvas.shape[2], canvas.shape[1])
    place = fish.position[:, k, :, None, None].astype(np.float32)
    half, colour = 0.5 * float(fish.length[k]), draw.COLOURS[fish.colour[k]]
    dx, dy = (x - place[:, 0]) * np.float32(fish.facing[k]), y - place[:, 1]
    body = (np.sqrt((dx / half) ** 2 + (dy / (0.5 * half)) ** 2) - 1) * (0.5 * half)
    back = -0.7 * half - dx  # behind the body's end, where the tail begins
    bent = dy - (0.25 * beat[:, None, None] * back).astype(np.float32)
    fin = np.abs(bent) - 0.18 * half - 0.55 * back.clip(0)
    tail = np.maximum(fin, np.abs(back - 0.2 * half) - 0.3 * half)
    distance = np.minimum(body, tail)
    cover = draw.coverage(distance) * exists[:, None, None]
    light = 1.04 - 0.2 * (dy / half) - 0.12 * draw.coverage(-1.2 - distance)
    draw.over(canvas, light[..., None] * np.asarray(colour, np.float32), cover)
    eye = draw.circle(dx - 0.55 * half, dy + 0.1 * half, 0.09 * half + 0.25)
    dark = (20, 22, 28) if sum(colour) > 150 else (240, 240, 240)
    draw.over(canvas, dark, 0.9 * draw.coverage(eye) * exists[:, None, None])
    return cover > 0.5


def _caption(
    rng: np.random.Generator, state: dict[str, np.ndarray], picture: bool
) -> str:
    """Names each fish, and those that leave or enter."""
    fish = [article(f"{colour} fish") for colour in state["colour"]]
    swims, other = one_of(rng, _SWIMS), {"left": "right", "right": "left"}
    clauses = []
    for name, way, fate in zip(fish, state["direction"], state["fate"], strict=True):
        words = f"{name} {swims} to the {way}"
        words += " out of the picture" if fate == "leaves" else ""
        enters = f"{name} {swims} in from the {other[str(way)]}"
        clauses.append(enters if fate == "enters" else words)
    return one_of(rng, _PICTURES if picture else _FORMS).format(
        fish=listed(fish if picture else clauses),
        count=NUMBERS[len(fish)],
        water=state["water"],
    )

"""A brush, a marker or chalk that moves along curves and leaves a stroke."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.worlds import draw
from data_pipelines.worlds.words import article, one_of

_PICTURE_FRAMES = 33  # a picture is the end of a clip of this length
_STEPS = 4  # straight pieces of a stroke per frame


class _Tool(NamedTuple):
    name: str
    surfaces: dict[str, tuple[int, int, int]]
    handle: tuple[int, int, int]  # for chalk, replaced by the drawn colour
    rough: float  # the part of the stroke that the surface's grain hides


TOOLS = (
    _Tool(
        "brush",
        {"white paper": (240, 240, 238), "cream canvas": (232, 222, 198)},
        (150, 96, 52),
        0.18,
    ),
    _Tool(
        "marker",
        {"white paper": (240, 240, 238), "yellow paper": (244, 234, 176)},
        (58, 60, 68),
        0.0,
    ),
    _Tool(
        "piece of chalk",
        {"a blackboard": (44, 50, 52), "a green board": (44, 84, 66)},
        (236, 234, 228),
        0.55,
    ),
)
NOUNS = {
    "wave": ("wavy line", "wave"),
    "spiral": ("spiral",),
    "circle": ("circle", "round loop"),
    "zigzag": ("zigzag", "zigzag line"),
    "loops": ("row of loops", "looping line"),
    "eight": ("figure eight",),
    "curl": ("winding line", "curved line"),
}
_FORMS = (
    "a {tool} draws {what} on {surface}",
    "a {tool} paints {what} on {surface}",
    "{what} is drawn on {surface} with a {tool}",
    "on {surface}, a {tool} draws {what}",
    "{what} appears on {surface} behind a moving {tool}",
    "a {tool} moves over {surface} and leaves {what}",
    "the tip of a {tool} traces {what} on {surface}",
    "someone draws {what} on {surface} with a {tool}",
)
_LIFTS = (
    ", lifts, and draws {other}",
    ", then goes elsewhere and draws {other}",
    " and then {other}",
)


def paint(
    rng: np.random.Generator, width: int, height: int, frames: int, fps: float
) -> tuple[
    Float[np.ndarray, "t h w 3"],
    UInt8[np.ndarray, "t h w"],
    str,
    dict[str, np.ndarray],
]:
    """Returns canvas, ids (1 the stroke, 2 the tool), caption and state.

    They are those of `marks.simulate`.
    """
    tool = TOOLS[rng.integers(len(TOOLS))]
    surface = one_of(rng, list(tool.surfaces))
    colour = one_of(rng, draw.apart(draw.COLOURS, [tool.surfaces[surface]]))
    names = [one_of(rng, list(NOUNS)) for _ in range(1 + (rng.random() < 0.35))]
    count = frames if frames > 1 else _PICTURE_FRAMES
    path, down = _path(rng, names, width, height, count)
    radius = float(min(width, height) * rng.uniform(0.022, 0.045))
    ink = _strokes(path, down, radius, width, height)
    tip, touching = path[::_STEPS], down[::_STEPS]
    if frames == 1:
        ink, tip, touching = ink[-1:], tip[-1:], touching[-1:]
    back = draw.backdrop(rng, width, height, tool.surfaces[surface])
    canvas = np.repeat(back[None], len(ink), 0)
    grain = 0.5 + 0.5 * draw.noise(rng, width, height, 30.0)
    draw.over(canvas, draw.COLOURS[colour], ink * (1 - tool.rough * grain))
    ids = (ink > 0.5).astype(np.uint8)
    cover = _hold(canvas, tool, draw.COLOURS[colour], tip, touching, radius)
    ids[cover > 0.5] = 2
    state = {
        "object": np.array(["stroke", tool.name]),
        "marked": ink > 0.5,
        "brush": tip,
        "down": touching,
        "stroke": np.array(names),
        "radius": np.array(radius),
        "colour": np.array(colour),
        "surface": np.array(surface),
    }
    return canvas, ids, _caption(rng, state), state


def _caption(rng: np.random.Generator, state: dict[str, np.ndarray]) -> str:
    colour = str(state["colour"])
    what = [
        article(f"{colour} {one_of(rng, NOUNS[str(name)])}") for name in state["stroke"]
    ]
    tool, surface = str(state["object"][1]), str(state["surface"])
    if len(what) > 1:
        form = one_of(rng, _FORMS[:2]).replace(" on {surface}", "")
        form = form + one_of(rng, _LIFTS) + " on {surface}"
        return form.format(tool=tool, what=what[0], other=what[1], surface=surface)
    return one_of(rng, _FORMS).format(tool=tool, what=what[0], surface=surface)


# --- The path of the tip ----------------------------------------------------------


def _curve(
    rng: np.random.Generator, name: str, share: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "k 2"]:
    """Returns a curve of that name up to a share of it, within 1 of the origin."""
    turn = 2 * np.pi * share
    x, y = 2 * share - 1, np.zeros_like(share)
    match name:
        case "wave":
            y = 0.45 * np.sin(rng.uniform(1.5, 2.5) * turn)
        case "spiral":
            x, y = (0.1 + 0.9 * share) * (np.cos(2.2 * turn), np.sin(2.2 * turn))
        case "circle":
            x, y = np.cos(turn), np.sin(turn)
        case "zigzag":
            phase = share * rng.integers(2, 4) % 1
            y = 0.5 - 2 * np.abs(phase - 0.5)
        case "loops":
            x = 0.65 * x - 0.35 * np.cos(3 * turn)
            y = 0.45 * np.sin(3 * turn)
        case "eight":
            x, y = np.sin(turn), 0.6 * np.sin(2 * turn)
        case "curl":
            size, phase = rng.uniform(0.2, 0.4, (2, 2)), rng.uniform(0, 6, (2, 2))
            waves = np.sin(np.stack([turn, 1.7 * turn])[:, None] + phase[..., None])
            x, y = 0.5 * x + (size[..., None] * waves).sum(0)
    flip = rng.choice((-1, 1), 2)
    return np.stack([x * flip[0], y * flip[1]], 1).clip(-1, 1)


def _path(
    rng: np.random.Generator, names: list[str], width: int, height: int, frames: int
) -> tuple[Float[np.ndarray, "k 2"], Bool[np.ndarray, "k"]]:
    """Returns the tip's position and whether it is down, `_STEPS` times per frame."""
    share = np.linspace(0, 1, (frames - 1) * _STEPS + 1)
    size = np.array((width, height))
    half = size * 0.38
    centres = [size * 0.5]
    if len(names) > 1:  # side by side, along the longer side
        half = (
            half * np.where(size == size.max(), 0.46, 1)
            if width != height
            else (half * (0.46, 1))
        )
        step = size * 0.23 * (half < size * 0.3)
        centres = [size * 0.5 - step, size * 0.5 + step]
        if rng.random() < 0.5:
            centres.reverse()
    spans = [(0.0, 1.0)] if len(names) == 1 else [(0.0, 0.44), (0.56, 1.0)]
    tip, down = np.zeros((len(share), 2)), np.zeros(len(share), bool)
    knots, places = [], []
    for name, centre, (first, last) in zip(names, centres, spans, strict=True):
        during = (share >= first) & (share <= last)
        part = (share[during] - first) / (last - first)
        curve = centre + _curve(rng, name, part) * half
        tip[during], down[during] = curve, True
        knots += [share[during][0], share[during][-1]]
        places += [curve[0], curve[-1]]
    for axis in range(2):  # in the air, straight from one stroke to the next
        tip[~down, axis] = np.interp(share[~down], knots, np.array(places)[:, axis])
    return tip, down


# --- The picture ------------------------------------------------------------------


def _strokes(
    path: Float[np.ndarray, "k 2"],
    down: Bool[np.ndarray, "k"],
    radius: float,
    width: int,
    height: int,
) -> Float[np.ndarray, "t h w"]:
    """Returns the coverage of all strokes so far; it never decreases."""
    x, y = draw.pixel_grid(width, height)
    frames = (len(path) - 1) // _STEPS + 1
    ink = np.zeros((frames, height, width), np.float32)
    for k in range(len(path)):
        back = max(k - 1, 0)
        if down[k] and down[back]:
            start, extent = path[back].astype(np.float32), path[k] - path[back]
            distance = draw.capsule(x - start[0], y - start[1], tuple(extent), radius)
            frame = ink[-(-k // _STEPS)]
            np.maximum(frame, draw.coverage(distance), out=frame)
    return np.maximum.accumulate(ink, 0)


def _hold(
    canvas: Float[np.ndarray, "t h w 3"],
    tool: _Tool,
    colour: tuple[int, int, int],
    tip: Float[np.ndarray, "t 2"],
    down: Bool[np.ndarray, "t"],
    radius: float,
) -> Float[np.ndarray, "t h w"]:
    """Draws the tool over its tip, raised while up; returns its coverage."""
    x, y = draw.pixel_grid(canvas.shape[2], canvas.shape[1])
    lift = np.where(down, 0.0, 2.5)[:, None]
    at = (tip + lift * (0.3, -1)).astype(np.float32)[..., None, None]
    dx, dy = x - at[:, 0], y - at[:, 1]
    thick = max(0.9 * radius, 1.3)
    if tool.name == "piece of chalk":
        parts = [((0.0, 0.0), (0.55, -0.85), 5.0, thick, colour)]
    else:
        metal = (176, 178, 184) if tool.name == "brush" else colour
        parts = [
            ((0.9, -1.4), (0.54, -0.84), 9.0, thick, tool.handle),
            ((0.9, -1.4), (0.54, -0.84), 1.0, 1.1 * thick, metal),
            ((0.0, 0.0), (0.54, -0.84), 1.6, 0.8 * thick, colour),
        ]
    whole = np.zeros(dx.shape, np.float32)
    for (x0, y0), (ux, uy), length, half, paint_ in parts:
        px, py = dx - x0 * thick, dy - y0 * thick
        extent = (ux * length * thick, uy * length * thick)
        shadow = draw.capsule(px - 2.5 - 0.5 * lift[..., None], py - 2.5, extent, half)
        draw.over(canvas, (0, 0, 0), 0.16 * draw.soft(shadow, 4.0))
        distance = draw.capsule(px, py, extent, half)
        across = (px * -uy + py * ux) / half
        light = (1.05 + 0.28 * across)[..., None]
        draw.over(
            canvas, light * np.asarray(paint_, np.float32), draw.coverage(distance)
        )
        whole = np.maximum(whole, draw.coverage(distance))
    return whole

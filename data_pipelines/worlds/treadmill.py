"""A walker on a treadmill, whose belt carries each foot back while it is down."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import draw
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.words import article, one_of

_SKIN = {"light": (236, 196, 164), "brown": (168, 116, 80), "dark": (108, 72, 50)}
_TROUSERS = (52, 56, 70)
_BELT = ((34, 34, 38), (196, 196, 196))  # its stripes
_STEEL = (120, 124, 132)
_STEP = 0.13  # of the shorter side: half a step
# Between frames the belt moves less than half a stripe's period, or it would seem to
# turn.
_STRIPE, _MOST = 0.2, 0.35

_FORMS = (
    "a person in {shirt} shirt walks on a treadmill, facing {side}",
    "someone in {shirt} shirt and {shoes} shoes walks to the {side} on a treadmill",
    "a walker with {shoes} shoes goes {side} on a treadmill and stays in place",
    "on a treadmill, a person in {shirt} shirt walks to the {side}",
    "the belt of a treadmill runs to the {back} under a walker in {shirt} shirt",
)
_PICTURES = (
    "a person in {shirt} shirt on a treadmill, facing {side}",
    "a walker with {shoes} shoes on a treadmill",
)


class _Gait(NamedTuple):
    """Feet on a belt in pixels: x from the hip and height; and the belt's way."""

    feet: Float[np.ndarray, "t 2 2"]  # near foot first
    down: Bool[np.ndarray, "t 2"]
    belt: Float[np.ndarray, " t"]


class _Place(NamedTuple):
    unit: float
    hip: tuple[float, float]
    belt: float  # the y of its upper side
    facing: int  # 1 walks to the right, -1 to the left


def draw_treadmill(
    rng: np.random.Generator,
    width: int,
    height: int,
    frames: int,
    fps: float,
    failed: bool,
) -> Episode:
    """Draws a walker in place: a foot that is down moves exactly as the belt does.

    `ids` counts shoes, the rest of the walker, and the belt. A failure is a belt that
    turns round under the same steps, or legs that stop on a moving belt. The state:

    - `shirt`, `shoes`, `side` (): names; the walker faces `side`
    - `speed` (): of the belt, pixels per second, positive to the right
    - `belt` (T,): the belt's way from the first frame, in pixels
    - `feet` (T,2,2): x and y of the soles' middles in pixels, the near foot first
    - `down` (T,2): bool, the foot is on the belt
    - `strip` (4,): left, top, right, bottom of the belt, in pixels
    - `stripe` (): pixels after which the belt's stripes repeat
    """
    unit, facing = float(min(width, height)), 1 if rng.random() < 0.5 else -1
    spare = max(width / 2 - 0.44 * unit, 0.0)
    x, belt = width / 2 + spare * rng.uniform(-0.7, 0.7), 0.82 * height
    place = _Place(unit, (float(x), belt - 0.31 * unit), belt, facing)
    pace = max(rng.uniform(0.8, 1.3), 4 * _STEP / (_MOST * _STRIPE * fps))
    room, skin = one_of(rng, list(draw.BACKDROPS)), one_of(rng, list(_SKIN))
    seen = [draw.BACKDROPS[room], _STEEL, _TROUSERS, *_BELT]
    vivid = [name for name in draw.COLOURS if name not in ("white", "black")]
    colours = draw.apart({name: draw.COLOURS[name] for name in vivid}, seen)
    shoes, shirt = rng.choice(colours, 2, replace=False)
    reverses, start = bool(rng.random() < 0.5), rng.random()
    wrong = round(frames * rng.uniform(0.45, 0.6))
    wrong = wrong if failed else frames
    gait = _walk(place, pace, start, np.arange(frames) / fps, wrong, reverses)
    canvas = np.repeat(_room(rng, place, width, height, room)[None], frames, 0)
    ids = np.zeros(canvas.shape[:3], np.uint8)
    strip = _belt(canvas, place, gait.belt)
    left, top, right, bottom = np.round(strip).astype(int)
    ids[:, top:bottom, left:right] = 4
    looks = (_SKIN[skin], draw.COLOURS[str(shirt)], draw.COLOURS[str(shoes)])
    body, near, far = _walker(canvas, place, gait, looks)
    ids[body], ids[far], ids[near] = 3, 2, 1
    sides = ("left", "right")[:: place.facing]
    state = {
        "object": np.array(["near shoe", "far shoe", "walker", "belt"]),
        "shirt": np.array(str(shirt)),
        "shoes": np.array(str(shoes)),
        "side": np.array(sides[1]),
        "speed": np.array(-facing * 4 * _STEP * unit / pace),
        "belt": gait.belt,
        "feet": np.array((x, belt)) + gait.feet * (1, -1),
        "down": gait.down,
        "strip": np.array(strip),
        "stripe": np.array(_STRIPE * unit),
    }
    caption = one_of(rng, _FORMS if frames > 1 else _PICTURES).format(
        shirt=article(str(shirt)), shoes=shoes, side=sides[1], back=sides[0]
    )
    return draw.flat_episode(canvas, ids, fps=fps, caption=caption, state=state)


def _walk(
    place: _Place,
    pace: float,
    start: float,
    time: Float[np.ndarray, " t"],
    wrong: int,
    reverses: bool,
) -> _Gait:
    """Returns steps of `pace` seconds for both feet; each is down for half of them."""
    half, last = _STEP * place.unit, time[min(wrong, len(time)) - 1]
    belt = time / pace * 4 * half
    walked = time
    if wrong < len(time):
        turned = np.where(time > last, 2 * last - time, time)
        belt = turned / pace * 4 * half if reverses else belt
        walked = time if reverses else np.fmin(time, last)
    phase = (start + walked[:, None] / pace + np.array((0.0, 0.5))) % 1
    down, swing = phase < 0.5, 2 * phase - 1
    x = np.where(down, half * (1 - 4 * phase), -half * np.cos(np.pi * swing))
    lift = np.where(down, 0.0, 0.11 * place.unit * np.sin(np.pi * swing.clip(0)))
    return _Gait(
        np.stack([place.facing * x, lift], -1), down, -float(place.facing) * belt
    )


def _room(
    rng: np.random.Generator, place: _Place, width: int, height: int, room: str
) -> Float[np.ndarray, "h w 3"]:
    """Draws a wall, a floor and the treadmill's frame with its handle."""
    x, y = draw.pixel_grid(width, height)
    back = draw.backdrop(rng, width, height, draw.BACKDROPS[room])[None]
    unit, edge = place.unit, place.belt + 0.04 * height
    floor = np.full((height, width, 3), 104, np.float32)
    floor += (8 * draw.noise(rng, width, height, 22.0))[..., None]
    draw.over(back, floor, draw.coverage(edge - y + 0 * x)[None])
    dx = (x - np.float32(place.hip[0])) * place.facing
    post = draw.capsule(
        dx - 0.4 * unit, y - place.belt, (-0.03 * unit, -0.42 * unit), 0.018 * unit
    )
    bar = draw.capsule(
        dx - 0.37 * unit, y - place.belt + 0.42 * unit, (-0.08 * unit, 0.0), 0.02 * unit
    )
    base = draw.box(dx, y - place.belt - 0.07 * unit, 0.43 * unit, 0.075 * unit)
    draw.over(
        back, _STEEL, draw.coverage(np.minimum(np.minimum(post, bar), base))[None]
    )
    return back[0]


def _belt(
    canvas: Float[np.ndarray, "t h w 3"], place: _Place, way: Float[np.ndarray, " t"]
) -> tuple[float, float, float, float]:
    """Draws a moving strip of stripes; returns its left, top, right and bottom."""
    x, y = draw.pixel_grid(canvas.shape[2], canvas.shape[1])
    unit, stripe = place.unit, np.float32(_STRIPE * place.unit)
    half, tall = 2 * _STRIPE * unit, 0.085 * unit
    dx = x - np.float32(place.hip[0])
    inside = draw.box(dx, y - place.belt - tall / 2, half, tall / 2)
    along = (dx[None] - way[:, None, None].astype(np.float32)) / stripe
    edge = (np.abs(along % 1 - 0.5) - 0.25) * stripe  # below 0 in a light stripe
    dark, light = (np.asarray(shade, np.float32) for shade in _BELT)
    look = dark + draw.coverage(edge)[..., None] * (light - dark)
    draw.over(canvas, look, draw.coverage(inside)[None])
    left, right = place.hip[0] - half, place.hip[0] + half
    return left, place.belt, right, place.belt + tall


def _walker(
    canvas: Float[np.ndarray, "t h w 3"],
    place: _Place,
    gait: _Gait,
    looks: tuple[tuple[int, int, int], ...],
) -> tuple[Bool[np.ndarray, "t h w"], ...]:
    """Draws far limbs, body and near limbs; returns body's and shoes' pixels."""
    unit, (x, y), facing = place.unit, place.hip, place.facing
    skin, shirt, shoes = looks
    hip = np.broadcast_to(np.array((x, y)), (len(canvas), 2))
    neck = hip - np.array((0.0, 0.24 * unit))
    body, shoe = np.zeros(canvas.shape[:3], bool), {}

    def limb(
        start: np.ndarray, end: np.ndarray, radius: float, colour: tuple, shade: float
    ) -> Bool[np.ndarray, "t h w"]:
        cover = draw.coverage(_line(canvas, start, end, radius * unit))
        draw.over(canvas, np.asarray(colour, np.float32) * np.float32(shade), cover)
        return cover > 0.5

    for foot, shade in ((1, 0.68), (0, 1.0)):
        if foot == 0:
            body |= limb(hip, neck, 0.068, shirt, 1.0)
            head = neck - np.array((-0.01 * facing * unit, 0.1 * unit))
            body |= limb(head, head, 0.066, skin, 1.0)
            nose = head + np.array((0.06 * facing * unit, 0.01 * unit))
            body |= limb(nose, nose, 0.022, skin, 1.0)
        at = np.array((x, place.belt)) + gait.feet[:, foot] * (1, -1)
        ankle = at - np.array((0.02 * facing * unit, 0.055 * unit))
        knee = _knee(hip, ankle, 0.138 * unit, facing)
        body |= limb(hip, knee, 0.042, _TROUSERS, shade)
        body |= limb(knee, ankle, 0.036, _TROUSERS, shade)
        heel = at - np.array((0.045 * facing * unit, 0.032 * unit))
        toe = at - np.array((-0.045 * facing * unit, 0.032 * unit))
        shoe[foot] = limb(heel, toe, 0.032, shoes, shade)
        swing = gait.feet[:, 1 - foot, :1] * (0.9, 0.0)  # arms swing against legs
        hand = neck + np.array((0.0, 0.23 * unit)) + swing
        shoulder = neck + np.array((0.0, 0.03 * unit))
        body |= limb(shoulder, hand, 0.028, shirt, 0.85 * shade)
    return body, shoe[0], shoe[1] & ~body


def _line(
    canvas: np.ndarray,
    start: Float[np.ndarray, "t 2"],
    end: Float[np.ndarray, "t 2"],
    radius: float,
) -> draw.Plane:
    """Returns the distance to a thick line with round ends, per frame."""
    x, y = draw.pixel_grid(canvas.shape[2], canvas.shape[1])
    ends = [each.astype(np.float32)[:, :, None, None] for each in (start, end - start)]
    (sx, sy), (tx, ty) = (np.moveaxis(each, 1, 0) for each in ends)
    dx, dy = x - sx, y - sy
    along = (dx * tx + dy * ty) / np.maximum(tx * tx + ty * ty, np.float32(1e-6))
    along = along.clip(0, 1)
    return draw.circle(dx - along * tx, dy - along * ty, radius)


def _knee(
    hip: Float[np.ndarray, "t 2"],
    ankle: Float[np.ndarray, "t 2"],
    bone: float,
    facing: int,
) -> Float[np.ndarray, "t 2"]:
    """Returns the knee, which bends forward, of two bones of equal length."""
    way = ankle - hip
    far = np.linalg.norm(way, axis=1, keepdims=True)
    bend = np.sqrt((bone**2 - (far / 2) ** 2).clip(0))
    across = np.stack([way[:, 1], -way[:, 0]], 1) / far * facing
    return (hip + ankle) / 2 + bend * across

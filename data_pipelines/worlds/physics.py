"""Balls that fall, bounce and collide in a box, or roll on a table seen from above."""

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.worlds import draw
from data_pipelines.worlds.bounces import Balls, trajectory
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.physics_words import caption
from data_pipelines.worlds.sizes import check_size
from data_pipelines.worlds.words import one_of

_FELTS = {"green": (40, 116, 74), "blue": (44, 84, 138), "red": (134, 42, 52)}
_FLOORS = {"wooden": (164, 116, 70), "grey": (128, 130, 134), "white": (224, 222, 216)}
_FRAME = (92, 58, 34)
_LIGHT = np.asarray(
    (-0.45, -0.62, 0.643), np.float32
)  # towards the light: left, up, to the viewer


def simulate(seed: int, *, width: int, height: int, frames: int, fps: float) -> Episode:
    """Simulates one to four balls in a box of the picture's size, without friction.

    Two thirds of the clips are side views with gravity; the others are billiards from
    above. Motion is exact from bounce to bounce (`bounces`).
    `ids` counts balls. The state, of N balls and K bounces:

    - `colour` (N,): names
    - `radius` (N,): pixels
    - `mass` (N,): radius³, of spheres of one density
    - `position` (T,N,2): centres, x and y in pixels
    - `velocity` (T,N,2): pixels per second
    - `box` (4,): left, top, right, bottom of the balls' space, in pixels
    - `gravity` (): pixels per second², downward; 0 for billiards
    - `restitution` (): speed after a bounce over speed before it
    - `bounce_time` (K,): seconds from the first frame
    - `bounce_ball` (K,): row of the ball
    - `bounce_against` (K,): "floor", "ceiling", "left wall", "right wall" or "ball k",
      row k. From above, floor and ceiling are the lower and the upper cushion.
    - `floor` (): "wooden", "grey" or "white"; for billiards the cloth's colour

    Raises:
      UserError: the size cannot be drawn.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    rng = draw.generator(seed, "physics")
    falls = bool(rng.random() < 0.67)
    floor = one_of(rng, list(_FLOORS if falls else _FELTS))
    colours = list(draw.COLOURS)
    if not falls:
        colours = draw.apart(draw.COLOURS, [_FELTS[floor]])
    balls = _balls(rng, width, height, falls)
    motion = trajectory(balls, np.arange(frames) / fps)
    state = {
        "colour": rng.choice(colours, len(balls.radius), replace=False),
        "radius": balls.radius,
        "mass": balls.mass,
        "position": motion.position,
        "velocity": motion.velocity,
        "box": np.array(balls.box),
        "gravity": np.array(balls.gravity),
        "restitution": np.array(balls.restitution),
        "bounce_time": motion.bounce_time,
        "bounce_ball": np.array(motion.bounce_ball, int),
        "bounce_against": np.array(motion.bounce_against, str),
        "floor": np.array(floor),
    }
    room = _room if falls else _table
    canvas = np.repeat(room(rng, state, width, height)[None], frames, 0)
    ids = _paint(canvas, state)
    text = caption(rng, state)
    return draw.flat_episode(canvas, ids, fps=fps, caption=text, state=state)


def _balls(rng: np.random.Generator, width: int, height: int, falls: bool) -> Balls:
    count = int(rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))) + 1
    rim = 0.05 * min(width, height)
    box = (rim, rim, width - rim, height - (0.14 * height if falls else rim))
    radius = min(width, height) * rng.uniform(0.075, 0.13, count)
    low = np.array(box[:2]) + radius[:, None]
    high = np.array(box[2:]) - radius[:, None]
    if falls:  # in the upper part, so that the fall is visible
        high[:, 1] = low[:, 1] + 0.6 * (high[:, 1] - low[:, 1])
    while True:
        place = rng.uniform(low, high)
        gaps = np.linalg.norm(place[:, None] - place, axis=-1)
        gaps -= radius[:, None] + radius + 1
        if (gaps[~np.eye(count, dtype=bool)] > 0).all():
            break
    room = np.array((box[2] - box[0], box[3] - box[1]))
    if falls:
        gravity = 2 * room[1] / rng.uniform(0.5, 1.0) ** 2
        speed = rng.uniform((-0.7, -0.6), (0.7, 0.3), (count, 2)) * room
        bounce = 1.0 if rng.random() < 0.1 else rng.uniform(0.5, 0.95)
    else:
        gravity, bounce = 0.0, rng.uniform(0.8, 1.0)
        angle = rng.uniform(0, 2 * np.pi, count)
        pace = rng.uniform(0.4, 1.4, count) * room.min()
        pace[1:] *= rng.random(count - 1) < 0.6  # some rest until they are hit
        speed = pace[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return Balls(place, speed, radius, box, float(gravity), float(bounce))


# --- The picture ------------------------------------------------------------------


def _room(
    rng: np.random.Generator, state: dict[str, np.ndarray], width: int, height: int
) -> Float[np.ndarray, "h w 3"]:
    """Draws a wall, a floor, and a frame at the sides of the balls' space."""
    x, y = draw.pixel_grid(width, height)
    left, top, right, bottom = state["box"]
    seen = [draw.COLOURS[name] for name in state["colour"]]
    name = one_of(rng, draw.apart(draw.BACKDROPS, seen))
    back = draw.backdrop(rng, width, height, draw.BACKDROPS[name])[None]
    sides = np.maximum(np.maximum(left - x, x - right), top - y)
    draw.over(back, (0, 0, 0), 0.25 * draw.soft(-sides, 6.0)[None])
    edge = bottom - 0.04 * height  # balls touch the floor slightly before its far edge
    grain = draw.noise(rng, width, height, 26.0) * 7 - 20 * (y - edge) / (height - edge)
    floor = np.asarray(_FLOORS[str(state["floor"])], np.float32) + grain[..., None]
    draw.over(back, (0, 0, 0), 0.3 * draw.soft(edge - 2 - y, 5.0)[None])
    draw.over(back, floor, draw.coverage(edge - y)[None])
    draw.over(back, np.asarray(_FRAME, np.float32) * 0.9, draw.coverage(-sides)[None])
    return back[0]


def _table(
    rng: np.random.Generator, state: dict[str, np.ndarray], width: int, height: int
) -> Float[np.ndarray, "h w 3"]:
    """Draws cloth inside a wooden frame."""
    x, y = draw.pixel_grid(width, height)
    left, top, right, bottom = state["box"]
    across, down = x - (left + right) / 2, y - (top + bottom) / 2
    inside = draw.box(across, down, (right - left) / 2, (bottom - top) / 2)
    light = 8 * draw.noise(rng, width, height, 30.0) - 18 * (
        (across / width) ** 2 + (down / height) ** 2
    )
    cloth = np.asarray(_FELTS[str(state["floor"])], np.float32) + light[..., None]
    canvas = np.broadcast_to(cloth, (1, height, width, 3)).astype(np.float32)
    draw.over(canvas, (0, 0, 0), 0.3 * draw.soft(-inside - 1, 5.0)[None])
    wood = np.asarray(_FRAME, np.float32) * (1 + 0.1 * np.sin(0.6 * (x + y)))[..., None]
    draw.over(canvas, wood, draw.coverage(-inside)[None])
    return canvas[0]


def _paint(
    canvas: Float[np.ndarray, "t h w 3"], state: dict[str, np.ndarray]
) -> UInt8[np.ndarray, "t h w"]:
    """Draws shadows, then balls; returns the ball at each pixel."""
    ids = np.zeros(canvas.shape[:3], np.uint8)
    x, y = draw.pixel_grid(canvas.shape[2], canvas.shape[1])
    places = state["position"].astype(np.float32)[..., None, None]  # (T,N,2,1,1)
    falls, bottom = bool(state["gravity"]), float(state["box"][3])
    for k, radius in enumerate(map(float, state["radius"])):
        dx, dy = x - places[:, k, 0], y - places[:, k, 1]
        if falls:  # on the floor, wider and fainter for higher balls
            high = ((bottom - radius - places[:, k, 1]) / bottom).clip(0, 1)
            wide = radius * (1 + 0.6 * high)
            distance = draw.circle(dx, (y - bottom) * 3.2, 0.0) - wide
            draw.over(canvas, (0, 0, 0), (0.5 - 0.4 * high) * draw.soft(distance, 4.0))
        distance = draw.circle(dx - 0.25 * radius, dy - 0.35 * radius, radius)
        shade = 0.12 if falls else 0.4
        draw.over(canvas, (0, 0, 0), shade * draw.soft(distance, 0.6 * radius))
    for k, radius in enumerate(map(float, state["radius"])):
        dx, dy = x - places[:, k, 0], y - places[:, k, 1]
        cover = draw.coverage(draw.circle(dx, dy, radius))
        draw.over(canvas, _sphere(dx, dy, radius, state["colour"][k]), cover)
        ids[cover > 0.5] = k + 1
    return ids


def _sphere(
    dx: draw.Plane, dy: draw.Plane, radius: float, colour: str
) -> Float[np.ndarray, "t h w 3"]:
    """Returns the lit face of a ball, with a highlight."""
    nx, ny = dx / radius, dy / radius
    nz = np.sqrt((1 - nx * nx - ny * ny).clip(0, 1))
    facing = nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2]
    shine = (2 * facing * nz - _LIGHT[2]).clip(0, 1) ** 12  # reflected to the viewer
    light = 0.5 + 0.58 * facing.clip(0, 1)
    lit = light[..., None] * np.asarray(draw.COLOURS[colour], np.float32)
    return lit + (0.85 * shine)[..., None] * (255 - lit)

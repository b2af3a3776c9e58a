"""Drawing for the worlds: coverage from signed distances, soft backgrounds, layers.

Pixels are float32 RGB of 0…255 until `finish`. Lengths are in pixels; (0, 0) is the
picture's upper left corner, x runs right and y down, and a pixel's centre is at .5. A
signed distance is negative inside; half a pixel on both sides of 0 is the edge.
"""

import zlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from data_pipelines.worlds.episode import Episode

Plane = Float[np.ndarray, "..."]  # anything that broadcasts against (T,H,W)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 38, 38),
    "orange": (245, 134, 20),
    "yellow": (248, 218, 40),
    "green": (44, 160, 62),
    "cyan": (50, 200, 214),
    "blue": (36, 84, 220),
    "purple": (136, 56, 190),
    "pink": (246, 128, 184),
    "white": (246, 246, 246),
    "black": (26, 26, 30),
}

BACKDROPS: dict[str, tuple[int, int, int]] = {
    "pale blue": (196, 214, 232),
    "cream": (238, 228, 202),
    "light grey": (204, 205, 208),
    "mint": (196, 226, 206),
    "lavender": (212, 204, 232),
    "sage green": (146, 166, 136),
    "slate blue": (98, 114, 142),
    "dark grey": (74, 76, 82),
    "navy": (34, 42, 76),
    "dark teal": (26, 72, 74),
}


_APART = 95.0  # in RGB: the least that looks like another colour at a glance


def generator(seed: int, world: str) -> np.random.Generator:
    """Returns the random numbers of one clip of one world."""
    return np.random.default_rng((seed, zlib.crc32(world.encode())))


def pixel_grid(
    width: int, height: int
) -> tuple[Float[np.ndarray, "1 w"], Float[np.ndarray, "h 1"]]:
    """Returns x and y of the pixels' centres."""
    x_W = np.arange(width, dtype=np.float32) + np.float32(0.5)
    y_H = np.arange(height, dtype=np.float32) + np.float32(0.5)
    return x_W[None, :], y_H[:, None]


# --- Signed distances -------------------------------------------------------------


def circle(x: Plane, y: Plane, radius: float) -> Plane:
    return np.sqrt(x * x + y * y) - np.float32(radius)


def box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(
        np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height)
    )


def capsule(x: Plane, y: Plane, to: tuple[float, float], radius: float) -> Plane:
    """Returns the distance to a thick line from the origin to `to` with round ends."""
    dx, dy = np.float32(to[0]), np.float32(to[1])
    along = ((x * dx + y * dy) / max(dx * dx + dy * dy, np.float32(1e-6))).clip(0, 1)
    return circle(x - along * dx, y - along * dy, radius)


def _sector(x: Plane, y: Plane, count: int) -> tuple[Plane, Plane]:
    """Folds the plane onto one of `count` sectors, the first of which points up."""
    angle, step = np.arctan2(x, -y), 2 * np.pi / count
    angle = angle - step * np.round(angle / step)
    rho = np.sqrt(x * x + y * y)
    return rho * np.cos(angle), np.abs(rho * np.sin(angle))


def _triangle(x: Plane, y: Plane, radius: float) -> Plane:
    return _sector(x, 0.12 * radius - y, 3)[0] - 0.68 * radius


def _star(x: Plane, y: Plane, radius: float) -> Plane:
    along, across = _sector(x, y, 5)
    tip, inner = 1.24 * radius, 0.58 * radius
    edge_x = inner * np.cos(np.pi / 5) - tip
    edge_y = inner * np.sin(np.pi / 5)
    return ((tip - along) * edge_y + across * edge_x) / -np.hypot(edge_x, edge_y)


def _cross(x: Plane, y: Plane, radius: float) -> Plane:
    arm = 0.34 * radius
    return np.minimum(box(x, y, radius, arm), box(x, y, arm, radius))


def _heart(x: Plane, y: Plane, radius: float) -> Plane:
    """Returns the signed distance to a square on its corner with two half circles.

    The half circles are on its upper sides.
    """
    x, y, half = np.abs(x), y - 0.08 * radius, 0.6 * radius
    lobe = half / np.sqrt(2)
    return np.minimum(
        (x + np.abs(y)) / np.sqrt(2) - half, circle(x - lobe, y + lobe, half)
    )


REACH = 1.25  # the largest extent of a shape from its centre, in radii

SHAPES: dict[str, Callable[[Plane, Plane, float], Plane]] = {
    "circle": circle,
    "square": lambda x, y, r: box(x, y, 0.86 * r, 0.86 * r),
    "triangle": _triangle,
    "star": _star,
    "diamond": lambda x, y, r: (np.abs(x) * 1.25 + np.abs(y) * 0.85) / 1.51 - 0.7 * r,
    "cross": _cross,
    "ring": lambda x, y, r: np.abs(circle(x, y, 0.76 * r)) - 0.24 * r,
    "heart": _heart,
}


# --- Layers -----------------------------------------------------------------------


def coverage(distance: Plane) -> Plane:
    """Returns the share of a pixel that is inside."""
    return (0.5 - distance).clip(0, 1).astype(np.float32)


def soft(distance: Plane, blur: float) -> Plane:
    """Returns a shadow: coverage with an edge of `blur` pixels."""
    inside = (0.5 - distance / np.float32(blur)).clip(0, 1)
    return (inside * inside * (3 - 2 * inside)).astype(np.float32)


def over(
    canvas: Float[np.ndarray, "t h w 3"],
    colour: Shaped[np.ndarray, "..."] | tuple[int, int, int],
    alpha: Plane,
) -> None:
    """Paints `colour` on the canvas, in place, with opacity `alpha` (T,H,W)."""
    canvas += alpha[..., None] * (np.asarray(colour, np.float32) - canvas)


def finish(canvas: Float[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns the canvas as 8-bit pixels."""
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)


# --- Backgrounds ------------------------------------------------------------------


def noise(
    rng: np.random.Generator, width: int, height: int, cells: float
) -> Float[np.ndarray, "h w"]:
    """Returns smooth noise of -1…1 with about `cells` bumps along the shorter side."""
    size = min(width, height) / cells
    x_W = np.arange(width) / size
    y_H = np.arange(height) / size
    values = rng.uniform(-1, 1, (int(y_H[-1]) + 2, int(x_W[-1]) + 2))
    (i, v), (j, u) = (_smooth_steps(y_H), _smooth_steps(x_W))
    rows = values[i] * (1 - v[:, None]) + values[i + 1] * v[:, None]
    return (rows[:, j] * (1 - u) + rows[:, j + 1] * u).astype(np.float32)


def _smooth_steps(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cell = at.astype(int)
    part = at - cell
    return cell, part * part * (3 - 2 * part)


def backdrop(
    rng: np.random.Generator, width: int, height: int, colour: tuple[int, int, int]
) -> Float[np.ndarray, "h w 3"]:
    """Draws a background near `colour`: gradient, vignette, soft texture, stripes."""
    x, y = pixel_grid(width, height)
    x, y = x / width - 0.5, y / height - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = x * np.cos(angle) + y * np.sin(angle)
    match rng.integers(5):
        case 0:
            light = 50 * slope
        case 1:
            light = 24 - 90 * (x * x + y * y)
        case 2:
            light = 16 * noise(rng, width, height, rng.uniform(2, 5))
        case 3:
            light = 9 * noise(rng, width, height, 24.0) + 30 * slope
        case _:
            light = 7 * np.sin(slope * rng.uniform(20, 45)) + 20 * y
    tint = rng.normal(0, 5, 3)
    return (np.asarray(colour) + tint + light[..., None]).astype(np.float32)


def apart(
    names: dict[str, tuple[int, int, int]], colours: list[tuple[int, int, int]]
) -> list[str]:
    """Returns the `names` that differ from each of the colours as far as some do."""
    away = {
        name: min(float(np.linalg.norm(np.subtract(rgb, other))) for other in colours)
        for name, rgb in names.items()
    }
    enough = min(_APART, max(away.values()))
    return [name for name, far in away.items() if far >= enough]


def flat_episode(
    canvas: Float[np.ndarray, "t h w 3"],
    ids: UInt8[np.ndarray, "t h w"],
    *,
    fps: float,
    caption: str,
    state: dict[str, np.ndarray],
) -> Episode:
    """Returns an episode of a world without depth, camera or actions."""
    frames = len(canvas)
    return Episode(
        video=finish(canvas),
        fps=fps,
        caption=caption,
        actions=np.zeros((frames, 0), np.float32),
        camera=np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1)),
        depth=np.zeros(ids.shape, np.float32),
        ids=ids,
        state=state,
    )

"""Food, drawn from arcs: a burger, apples, a cookie, a doughnut."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.worlds import draw

Colour = tuple[int, int, int]


class Dish(NamedTuple):
    """Food on a transparent background: pixels and their coverage."""

    colour: Float[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    flesh: Colour | None  # the colour at the edge of a bite


class _Plate:
    """A canvas of layered parts; x and y run from -1 to 1 over the food."""

    def __init__(
        self, width: int, height: int, centre: tuple[float, float], size: float
    ):
        x, y = draw.pixel_grid(width, height)
        self.x = (x - np.float32(centre[0])) / np.float32(size) + 0 * y
        self.y = (y - np.float32(centre[1])) / np.float32(size) + 0 * x
        self.size = size
        self.colour = np.zeros((1, height, width, 3), np.float32)
        self.alpha = np.zeros((height, width), np.float32)

    def lay(self, distance: draw.Plane, colour: Colour, light: draw.Plane) -> None:
        """Adds a part by its signed distance in x and y, with a darker edge."""
        pixels = distance * np.float32(self.size)
        light = light - 0.16 * draw.coverage(-1.2 - pixels)
        cover = draw.coverage(pixels)
        # A part's soft edge blends with the parts below; a rim keeps its colour.
        bare = self.alpha[..., None] == 0
        lit = (light[..., None] * np.asarray(colour, np.float32)).astype(np.float32)
        self.colour[0] = np.where(bare, lit, self.colour[0])
        draw.over(self.colour, lit, cover[None])
        self.alpha = np.maximum(self.alpha, cover)

    def dish(self, flesh: Colour | None) -> Dish:
        return Dish(self.colour[0], self.alpha, flesh)


def _ellipse(x: draw.Plane, y: draw.Plane, a: float, b: float) -> draw.Plane:
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1) * min(a, b)


def _slab(x: draw.Plane, y: draw.Plane, a: float, b: float) -> draw.Plane:
    """Returns the distance to a bar of half sides a and b with round ends."""
    return draw.capsule(x + (a - b), y, (2 * (a - b), 0.0), b)


def _burger(
    rng: np.random.Generator,
    width: int,
    height: int,
    centre: tuple[float, float],
    size: float,
) -> Dish:
    plate = _Plate(width, height, centre, size)
    x, y, bun = plate.x, plate.y, (216, 148, 74)
    bottom = np.maximum(_ellipse(x, y - 0.42, 0.94, 0.36), 0.42 - y)
    plate.lay(bottom, bun, 1.1 - 0.3 * (y - 0.4))
    grain = draw.noise(rng, width, height, 26.0)
    plate.lay(_slab(x, y - 0.34, 1.0, 0.16), (104, 60, 36), 1 + 0.16 * grain)
    drips = 0.13 * np.abs(np.sin(x * 3.1 + rng.uniform(0, 3)))
    cheese = np.maximum(np.abs(x) - 0.96, np.maximum(0.14 - y, y - 0.2 - drips))
    plate.lay(cheese, (250, 196, 50), 1.0 + 0 * x)
    for at in (-0.48, 0.48):
        plate.lay(
            _slab(x - at, y - 0.1, 0.47, 0.09), (212, 52, 40), 1 - 0.8 * (y - 0.1)
        )
    wave = 0.05 * np.sin(x * rng.uniform(13, 17))
    lettuce = np.maximum(np.abs(x) - 1.04, np.abs(y + 0.03 - wave) - 0.09)
    plate.lay(lettuce, (104, 178, 62), 1 - 2 * (y + 0.03 - wave))
    top = np.maximum(_ellipse(x, y + 0.1, 0.98, 0.68), y + 0.1)
    plate.lay(top, bun, 0.92 - 0.35 * (y + 0.35) - 0.12 * x)
    for _ in range(9):
        angle, far = rng.uniform(0.12, 0.88) * np.pi, rng.uniform(0.35, 0.82)
        sx, sy = -0.98 * far * np.cos(angle), -0.1 - 0.62 * far * np.sin(angle)
        plate.lay(_ellipse(x - sx, y - sy, 0.07, 0.045), (250, 232, 190), 1 + 0 * x)
    return plate.dish(None)


def _apple(
    rng: np.random.Generator,
    width: int,
    height: int,
    centre: tuple[float, float],
    size: float,
    colour: Colour,
) -> Dish:
    plate = _Plate(width, height, centre, size)
    x, y = plate.x, plate.y
    lean = rng.uniform(-0.12, 0.12)
    stem = draw.capsule(x, y + 0.62, (lean, -0.36), 0.055)
    plate.lay(stem, (98, 66, 40), 1 + 0 * x)
    leaf = np.maximum(
        draw.circle(x - 0.18, y + 1.06, 0.36), draw.circle(x - 0.34, y + 0.56, 0.34)
    )
    plate.lay(leaf, (74, 152, 62), 1 - 0.4 * (y + 0.8))
    lobes = [_ellipse(np.abs(x) - 0.36, y - 0.06, 0.6, 0.76)]
    lobes.append(draw.circle(np.abs(x) - 0.2, y - 0.3, 0.6))
    light = 1.02 - 0.28 * (x + y) - 0.25 * (x * x + y * y)
    shine = np.exp(-((x + 0.42) ** 2 + (y + 0.34) ** 2) / 0.03)
    plate.lay(np.minimum(*lobes), colour, light + 0.55 * shine)
    return plate.dish((252, 242, 208))


def _red_apple(rng, width, height, centre, size) -> Dish:
    return _apple(rng, width, height, centre, size, (212, 42, 44))


def _green_apple(rng, width, height, centre, size) -> Dish:
    return _apple(rng, width, height, centre, size, (134, 190, 56))


def _cookie(
    rng: np.random.Generator,
    width: int,
    height: int,
    centre: tuple[float, float],
    size: float,
) -> Dish:
    plate = _Plate(width, height, centre, size)
    x, y = plate.x, plate.y
    edge = 0.03 * np.sin(9 * np.arctan2(y, x) + rng.uniform(0, 6))
    grain = 0.1 * draw.noise(rng, width, height, 22.0)
    plate.lay(
        draw.circle(x, y, 0.94) + edge, (206, 152, 88), 1.06 - 0.12 * (x + y) + grain
    )
    for _ in range(int(rng.integers(7, 11))):
        angle, far = rng.uniform(0, 2 * np.pi), 0.72 * np.sqrt(rng.random())
        px, py = x - far * np.cos(angle), y - far * np.sin(angle)
        chip = draw.circle(px, py, rng.uniform(0.08, 0.14))
        plate.lay(chip, (78, 46, 30), 1.15 - 2 * (px + py))
    return plate.dish((228, 190, 132))


def _doughnut(
    rng: np.random.Generator,
    width: int,
    height: int,
    centre: tuple[float, float],
    size: float,
) -> Dish:
    plate = _Plate(width, height, centre, size)
    x, y = plate.x, plate.y
    ring = np.abs(draw.circle(x, y, 0.62))
    plate.lay(ring - 0.36, (212, 156, 90), 1.1 - 0.15 * (x + y) - 0.8 * ring * ring)
    icing = ((242, 142, 182), (96, 58, 40), (250, 246, 236))[rng.integers(3)]
    wave = 0.03 * np.sin(7 * np.arctan2(y, x) + rng.uniform(0, 6))
    plate.lay(ring - 0.27 + wave, icing, 1.06 - 0.1 * (x + y) - 0.8 * ring * ring)
    sprinkles = [draw.COLOURS[name] for name in ("red", "yellow", "green", "blue")]
    for k in range(16):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.8)
        turn = rng.uniform(0, np.pi)
        extent = 0.11 * np.array((np.cos(turn), np.sin(turn)))
        at = far * np.array((np.cos(angle), np.sin(angle))) - extent / 2
        bar = draw.capsule(x - at[0], y - at[1], tuple(extent), 0.03)
        plate.lay(bar, sprinkles[k % 4], 1 + 0 * x)
    return plate.dish((240, 208, 150))


Cook = Callable[
    [np.random.Generator, int, int, tuple[float, float], float],
    Dish,
]

FOODS: dict[str, Cook] = {
    "burger": _burger,
    "red apple": _red_apple,
    "green apple": _green_apple,
    "cookie": _cookie,
    "doughnut": _doughnut,
}

"""Land of blocks: hills from value noise, water, trees. The land repeats every 128.

A grid is uint8 (x, y, z), y upwards, and represents an endless land: block (x, y, z) is
that of (x mod 128, y, z mod 128). All above the grid is air, all below is stone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from data_pipelines.worlds import voxel_blocks as vb

SIZE, TALL = 128, 48  # blocks
SEA = 14  # the highest layer of water


@dataclass(frozen=True, kw_only=True)
class Biome:
    """The materials and shape of a land. Heights are in blocks."""

    ground: float  # mean height above the sea
    relief: float  # of the hills
    rough: float = 0.5  # the strength of a noise octave relative to the previous one
    ridges: bool = False
    top: int = vb.GRASS
    soil: int = vb.DIRT
    trees: float = 0.0  # the share of lattice points with a tree
    tree: int = vb.LEAVES  # the block of its crown
    snow_from: int = TALL


BIOMES = {
    "meadow": Biome(ground=5.0, relief=7.0, trees=0.10),
    "forest": Biome(ground=6.0, relief=9.0, trees=0.62),
    "desert": Biome(
        ground=6.0,
        relief=8.0,
        rough=0.35,
        top=vb.SAND,
        soil=vb.SANDSTONE,
        trees=0.16,
        tree=vb.CACTUS,
    ),
    "lakes": Biome(ground=0.5, relief=8.0, trees=0.22),
    "mountains": Biome(
        ground=9.0, relief=19.0, rough=0.46, ridges=True, trees=0.2, snow_from=SEA + 14
    ),
    "snow": Biome(
        ground=6.0, relief=8.0, top=vb.SNOW, trees=0.34, tree=vb.NEEDLES, snow_from=0
    ),
}


class Land(NamedTuple):
    """A grid, the name of its biome, and the height of the ground without trees."""

    grid: UInt8[np.ndarray, "x y z"]
    biome: str
    ground: Int[np.ndarray, "x z"]  # y of the highest block that is no plant


def make_land(seed: int) -> Land:
    """Returns the land of a seed."""
    rng = np.random.default_rng((seed, 0x1A2D))
    name = list(BIOMES)[rng.integers(len(BIOMES))]
    biome = BIOMES[name]
    height = _heights(rng, biome)
    grid = _strata(biome, height)
    _plant(rng, biome, grid, height)
    return Land(grid, name, height)


def value_noise(
    rng: np.random.Generator, size: int, cells: int, octaves: int, rough: float
) -> np.ndarray:
    """Returns periodic value noise (size, size) of mean 0, about within ±1.

    The first octave has `cells` per side; each next one has twice as many, `rough`
    times as strong.
    """
    total = np.zeros((size, size))
    for octave in range(octaves):
        count = cells << octave
        values = rng.uniform(-1, 1, (count, count))
        place = np.arange(size) * count / size
        low = place.astype(int)
        part = place - low
        part = part * part * (3 - 2 * part)
        high = (low + 1) % count
        rows = values[low] * (1 - part[:, None]) + values[high] * part[:, None]
        layer = rows[:, low] * (1 - part) + rows[:, high] * part
        total += rough**octave * layer
    return total * (1 - rough) / (1 - rough**octaves) * 1.8


def _heights(rng: np.random.Generator, biome: Biome) -> np.ndarray:
    """Returns (x, z): y of the highest block of the ground."""
    noise = value_noise(rng, SIZE, 4, 4, biome.rough)
    if biome.ridges:
        noise = noise + 0.7 * (0.5 - np.abs(value_noise(rng, SIZE, 4, 3, 0.5)))
    height = np.floor(SEA + biome.ground + biome.relief * noise).astype(int)
    return np.clip(height, 3, TALL - 9)


def _strata(biome: Biome, height: np.ndarray) -> np.ndarray:
    """Returns rock, soil, its cover, and water up to the sea."""
    y = np.arange(TALL)[None, :, None]
    h = height[:, None, :]
    grid = np.where(y <= h - 4, vb.STONE, np.where(y <= h, biome.soil, vb.AIR))
    slope = np.maximum.reduce(
        [height - np.roll(height, s, axis) for s in (1, -1) for axis in (0, 1)]
    )
    cover = np.full(height.shape, biome.top)
    cover[height >= biome.snow_from] = vb.SNOW
    cover[height <= SEA + 1] = vb.SAND
    if biome.ridges:
        cover[slope > 1] = vb.STONE
        grid = np.where((y <= h) & (slope > 1)[:, None, :], vb.STONE, grid)
    grid = np.where(y == h, cover[:, None, :], grid)
    return np.where((grid == vb.AIR) & (y <= SEA), vb.WATER, grid).astype(np.uint8)


def _plant(
    rng: np.random.Generator, biome: Biome, grid: np.ndarray, height: np.ndarray
) -> None:
    """Adds trees (or cacti) on a jittered lattice, so that crowns rarely meet."""
    pitch = 8 if biome.tree == vb.CACTUS else 6
    for x0 in range(0, SIZE - pitch, pitch):
        for z0 in range(0, SIZE - pitch, pitch):
            x, z = x0 + int(rng.integers(1, pitch)), z0 + int(rng.integers(1, pitch))
            stem = int(rng.integers(4, 7))
            y = int(height[x, z])
            if rng.random() > biome.trees or y <= SEA or y + stem + 3 >= TALL:
                continue
            if grid[x, y, z] not in (vb.GRASS, vb.SNOW, biome.top):
                continue
            if biome.tree == vb.CACTUS:
                grid[x, y + 1 : y + stem - 1, z] = vb.CACTUS
            else:
                _crown(rng, grid, biome.tree, (x, y, z), stem)
                grid[x, y + 1 : y + 1 + stem, z] = vb.WOOD


def _crown(
    rng: np.random.Generator,
    grid: np.ndarray,
    block: int,
    foot: tuple[int, int, int],
    stem: int,
) -> None:
    """Adds a round crown of leaves, or the cone of a fir."""
    x, y, z = foot
    fir = block == vb.NEEDLES
    for dy in range(2 if fir else stem - 2, stem + 3):
        if fir:
            radius = max(0.4, (stem + 3 - dy) * 0.42 + 0.5 * ((dy + stem) % 2))
        else:
            radius = (2.3, 2.9, 2.5, 1.9, 1.1)[dy - stem + 2]
        for dx in range(-3, 4):
            for dz in range(-3, 4):
                far = dx * dx + dz * dz + (0 if fir else rng.random() * 1.4)
                cell = ((x + dx) % SIZE, y + dy, (z + dz) % SIZE)
                if far <= radius * radius and cell[1] < TALL and grid[cell] == vb.AIR:
                    grid[cell] = block

"""Blocks: their names, their heights and their textures."""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BLOCKS = (
    "air",
    "grass",
    "dirt",
    "stone",
    "sand",
    "water",
    "wood",
    "leaves",
    "snow",
    "cactus",
    "needles",
    "sandstone",
    "bricks",
    "planks",
    "marble",
    "wool",
)
(AIR, GRASS, DIRT, STONE, SAND, WATER, WOOD, LEAVES) = range(8)
(SNOW, CACTUS, NEEDLES, SANDSTONE, BRICKS, PLANKS, MARBLE, WOOL) = range(8, 16)

# The filled share of a block's cell, from below, for a body: it wades in water.
FILL = np.array([0 if b == AIR else 0.5 if b == WATER else 1 for b in range(16)])

TOP, SIDE, BOTTOM = range(3)  # kinds of faces
TEXELS = 16  # per side of a face
LEVELS = 5  # of the mip pyramid: 16, 8, 4, 2 and 1 texels per side
# The start of each level in a face's row of `atlas()`.
LEVEL_START = (0, 256, 320, 336, 340)


class _Paint(NamedTuple):
    colour: tuple[int, int, int]
    speckle: float  # of single texels, as a share of the colour
    blotch: float  # of patches of 4 texels
    pattern: str = ""


_PAINTS = {
    GRASS: _Paint((106, 158, 62), 0.12, 0.08),
    DIRT: _Paint((134, 97, 67), 0.12, 0.10),
    STONE: _Paint((128, 128, 130), 0.06, 0.14),
    SAND: _Paint((214, 197, 148), 0.05, 0.04),
    WATER: _Paint((38, 92, 158), 0.02, 0.07),
    WOOD: _Paint((104, 80, 48), 0.08, 0.04, "bark"),
    LEAVES: _Paint((62, 116, 40), 0.26, 0.14),
    SNOW: _Paint((240, 245, 250), 0.02, 0.03),
    CACTUS: _Paint((70, 132, 58), 0.07, 0.04, "bark"),
    NEEDLES: _Paint((58, 106, 74), 0.22, 0.12),
    SANDSTONE: _Paint((206, 182, 128), 0.04, 0.05, "layers"),
    BRICKS: _Paint((162, 78, 62), 0.07, 0.05, "bricks"),
    PLANKS: _Paint((178, 140, 84), 0.05, 0.03, "planks"),
    MARBLE: _Paint((226, 222, 214), 0.03, 0.05, "bricks"),
    WOOL: _Paint((196, 58, 92), 0.06, 0.05),
}


@cache
def atlas() -> Float[np.ndarray, "48 341 3"]:
    """Returns the faces of all blocks, row 3·block + kind, as mip pyramids of 0…1."""
    faces = np.zeros((len(BLOCKS), 3, TEXELS, TEXELS, 3), np.float32)
    rng = np.random.default_rng(16)
    for block, paint in _PAINTS.items():
        for kind in (TOP, SIDE, BOTTOM):
            faces[block, kind] = _face(rng, paint, kind)
    _crown(rng, faces, GRASS, DIRT)
    _crown(rng, faces, SNOW, DIRT)
    rings = np.abs(np.arange(TEXELS) - 7.5)
    rings = np.maximum(rings[:, None], rings[None, :]).astype(int) % 3
    for kind in (TOP, BOTTOM):
        faces[WOOD, kind] = (
            np.array([168, 134, 84]) / 255 * (1 - 0.12 * rings)[..., None]
        )
    return _pyramids(faces.reshape(-1, TEXELS, TEXELS, 3))


def _face(rng: np.random.Generator, paint: _Paint, kind: int) -> np.ndarray:
    """Returns one face (16, 16, 3): rows from the top down."""
    speckle = rng.normal(size=(TEXELS, TEXELS))
    blotch = np.kron(rng.normal(size=(8, 8)), np.ones((2, 2)))
    bright = 1 + paint.speckle * speckle + paint.blotch * blotch
    bright = np.clip(bright, 0.5, 1.5) * _pattern(paint.pattern, kind)
    colour = np.array(paint.colour) / 255
    return np.clip(bright[..., None] * colour, 0, 1)


def _pattern(name: str, kind: int) -> np.ndarray:
    """Returns brightness (16, 16) of a face's characteristic lines."""
    row, column = np.mgrid[:TEXELS, :TEXELS]
    if name == "bricks":
        joints = (row % 4 == 3) | ((column + 4 * (row // 4 % 2)) % 8 == 7)
        return np.where(joints, 0.74, 1.0)
    if name == "planks":
        joints = (row % 4 == 3) | (column == (5 * (row // 4) + 3) % TEXELS)
        return np.where(joints, 0.72, 1.0)
    if name == "bark" and kind == SIDE:
        return np.where(column % 4 == 0, 0.74, np.where(column % 4 == 2, 1.1, 1.0))
    if name == "layers" and kind == SIDE:
        return np.where(row % 5 == 4, 0.86, 1.0)
    return np.ones((TEXELS, TEXELS))


def _crown(rng: np.random.Generator, faces: np.ndarray, block: int, soil: int) -> None:
    """Draws sides of soil under a ragged edge of the top layer."""
    depth = rng.integers(3, 6, TEXELS)
    above = np.arange(TEXELS)[:, None] < depth[None, :]
    faces[block, SIDE] = np.where(
        above[..., None], faces[block, TOP], faces[soil, SIDE]
    )
    faces[block, BOTTOM] = faces[soil, BOTTOM]


def _pyramids(faces_NHWC: np.ndarray) -> np.ndarray:
    """Returns (N, 341, 3): each face, then its means of 2x2, 4x4, … texels."""
    levels = []
    for _ in range(LEVELS):
        count, side = faces_NHWC.shape[:2]
        levels.append(faces_NHWC.reshape(count, side * side, 3))
        if side > 1:
            pairs = faces_NHWC.reshape(count, side // 2, 2, side // 2, 2, 3)
            faces_NHWC = pairs.mean((2, 4))
    return np.concatenate(levels, axis=1).astype(np.float32)

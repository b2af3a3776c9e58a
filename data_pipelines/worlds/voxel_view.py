"""Pictures of a land of blocks by a pinhole camera: colour, depth and blocks.

A camera looks along +z, with x to the right and y down. Its vertical field of view is
`FOV`, and pixels are square: the focal length is height / 2 / tan(FOV / 2) pixels, and
the axis meets the picture at (width / 2, height / 2), with pixel centres at halves.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.voxel_cast import (
    VIEW,
    Hits,
    gather,
    index,
    leaps,
    leaps_after,
    trace,
)
from data_pipelines.worlds.voxel_light import Sky, gradient, light, sky_colour
from soraxla.core.types import Array
from soraxla.parallel.compiler import jit

FOV = 70.0  # degrees, of the height of a picture

_VOLUMES = ("blocks", "leap", "light")
_CHUNK = 512  # rays followed together, until the last of them ends
_CORNER_WEIGHT = 1 / 8  # of each corner of a pixel; its centre has 1/2


class Scene(NamedTuple):
    """A land as rays see it: blocks, leaps and light are (x, y, z)."""

    blocks: UInt8[np.ndarray, "x y z"]
    leap: UInt8[np.ndarray, "x y z"]
    light: UInt16[np.ndarray, "x y z"]
    sky: Sky


class Picture(NamedTuple):
    """One frame. Sky has depth 0 and block 0."""

    colour: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # blocks along the ray of the pixel's centre
    ids: UInt8[np.ndarray, "h w"]  # number of the block there


def make_scene(grid: UInt8[np.ndarray, "x y z"], sky: Sky) -> Scene:
    """Returns a land under a sky."""
    return Scene(grid, leaps(grid), light(grid, sky.sun), sky)


def with_block(scene: Scene, cell: tuple[int, int, int], block: int) -> Scene:
    """Returns the scene with another block in `cell`, inside the grid."""
    blocks = scene.blocks.copy()
    blocks[cell] = block
    leap = leaps_after(scene.leap, cell, block != vb.AIR)
    return Scene(blocks, leap, light(blocks, scene.sky.sun), scene.sky)


def camera(
    position: Float[np.ndarray, " 3"], yaw: float, pitch: float
) -> Float[np.ndarray, "4 4"]:
    """Returns the camera-to-world matrix.

    At yaw 0 it looks along +z; yaw turns it right, towards −x, and pitch up; both in
    degrees.
    """
    yaw, pitch = np.radians(yaw), np.radians(pitch)
    level = np.array([-np.sin(yaw), 0, np.cos(yaw)])
    right = np.array([-np.cos(yaw), 0, -np.sin(yaw)])
    ahead = level * np.cos(pitch) + np.array([0, np.sin(pitch), 0])
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(ahead, right), ahead, position], axis=1)
    return matrix.astype(np.float32)


def rays(height: int, width: int, *, corners: bool) -> Float[np.ndarray, "3 n"]:
    """Returns unit directions, in the camera, of pixel centres or of pixel corners."""
    focal = height / 2 / np.tan(np.radians(FOV) / 2)
    more, shift = (1, 0.0) if corners else (0, 0.5)
    down, right = np.mgrid[: height + more, : width + more] + shift
    direction = np.stack(
        [right - width / 2, down - height / 2, np.full(right.shape, focal)]
    ).reshape(3, -1)
    return (direction / np.linalg.norm(direction, axis=0)).astype(np.float32)


def render(
    scene: Scene,
    to_world: Float[np.ndarray, "4 4"],
    seconds: float,
    *,
    height: int,
    width: int,
) -> Picture:
    """Renders a scene by a camera; `seconds` moves clouds and water.

    Rays go through the centres of pixels and through their corners, which neighbours
    share: antialiasing of five samples for the cost of two.
    """
    bundle, count = _bundle(height, width)
    apart = 1.4 * np.tan(np.radians(FOV) / 2) / height  # between rays, at distance 1
    numbers = (np.float32(n) for n in (seconds, apart))
    *colour, depth, block = (
        np.asarray(part).reshape(-1)
        for part in _shoot(scene, to_world, *numbers, bundle, count)
    )
    pixels, corners = height * width, (height + 1) * (width + 1)
    colour = np.stack(colour, axis=-1)
    inner = colour[:pixels].reshape(height, width, 3)
    outer = colour[pixels : pixels + corners].reshape(height + 1, width + 1, 3)
    around = outer[1:, 1:] + outer[1:, :-1] + outer[:-1, 1:] + outer[:-1, :-1]
    mixed = inner / 2 + around * _CORNER_WEIGHT
    return Picture(
        np.round(np.clip(mixed, 0, 1) * 255).astype(np.uint8),
        depth[:pixels].reshape(height, width),
        block[:pixels].reshape(height, width).astype(np.uint8),
    )


@cache
def _bundle(height: int, width: int) -> tuple[np.ndarray, int]:
    """Returns all rays of a picture in chunks (N,3,C), and the number of chunks.

    N is a power of two, so that most sizes of pictures share a compiled program.
    """
    every = np.concatenate(
        [rays(height, width, corners=corners) for corners in (False, True)], axis=1
    )
    count = -(-every.shape[1] // _CHUNK)
    room = (1 << (count - 1).bit_length()) * _CHUNK
    every = np.pad(every, ((0, 0), (0, room - every.shape[1])), mode="edge")
    return np.ascontiguousarray(every.reshape(3, -1, _CHUNK).swapaxes(0, 1)), count


@jit
def _shoot(
    scene: Any, to_world: Array, seconds: Array, apart: Array, bundle: Array, count: Any
) -> tuple[Array, ...]:
    """Returns red, green, blue, depth and block (N,C) of the first `count` chunks."""
    scene = scene._replace(**{k: getattr(scene, k).reshape(-1) for k in _VOLUMES})
    turn, origin = to_world[:3, :3], to_world[:3, 3]

    def chunk(i: Array, seen: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        direction = turn @ bundle[i]
        hits = trace(scene.blocks, scene.leap, origin, direction)
        colour = _shade(scene, origin, direction, hits, seconds, apart)
        depth = jnp.where(hits.block > 0, hits.distance, 0)
        rows = (*colour, depth, hits.block)
        return tuple(s.at[i].set(r) for s, r in zip(seen, rows, strict=True))

    blank = jnp.zeros(bundle.shape[::2])
    seen = (blank, blank, blank, blank, blank.astype(jnp.int32))
    return jax.lax.fori_loop(0, count, chunk, seen)


def _shade(
    scene: Scene,
    origin: Array,
    direction: Array,
    hits: Hits,
    seconds: Array,
    apart: Array,
) -> list[Array]:
    """Returns colours (3 of (n,)) of rays: of lit hits in haze, or of the sky."""
    where = [o + hits.distance * d for o, d in zip(origin, direction, strict=True)]
    facing = [hits.axis == i for i in range(3)]
    back = [jnp.where(d > 0, -1, 1) for d in direction]
    normal = [jnp.where(f, b, 0) for f, b in zip(facing, back, strict=True)]
    slant = jnp.abs(sum(n * d for n, d in zip(normal, direction, strict=True)))
    texel = _texture(where, facing, normal, hits, seconds, apart / slant)
    sunlit, openness = _light_at(scene.light, where, facing, normal, hits.cell)
    sky = scene.sky
    toward = sum(n * s for n, s in zip(normal, sky.sun, strict=True))
    # Faces that are turned away get a little indirect sunlight.
    sunlit = sunlit * (0.9 * jnp.clip(toward, 0, 1) + 0.12)
    up = 0.80 + 0.20 * normal[1] - 0.08 * facing[0]
    open_to = jnp.clip(openness / 0.6, 0.3, 1) * up
    colour = [
        t * (sunlit * s + open_to * a)
        for t, s, a in zip(texel, sky.sunlight, sky.ambient, strict=True)
    ]
    colour = _on_water(sky, colour, direction, hits, facing[1], texel)
    haze = jnp.clip(hits.distance / VIEW, 0, 1) ** 3
    air = gradient(sky, direction[1])
    beyond = sky_colour(sky, origin, direction, seconds)
    seen = hits.block > 0
    return [
        jnp.where(seen, c + (a - c) * haze, b)
        for c, a, b in zip(colour, air, beyond, strict=True)
    ]


def _texture(
    where: list, facing: list, normal: list, hits: Hits, seconds: Array, wide: Array
) -> list[Array]:
    """Returns colours (3 of (n,)) of faces; `wide` is a ray's width at distance 1."""
    drift = jnp.where(hits.block == vb.WATER, 0.4 * seconds, 0)
    across = jnp.where(facing[0], where[2], where[0]) + drift
    along = jnp.where(facing[1], where[2], -where[1])
    texels = jnp.maximum(wide * hits.distance * vb.TEXELS, 1)
    level = jnp.clip(jnp.round(jnp.log2(texels)), 0, vb.LEVELS - 1).astype(jnp.int32)
    side = vb.TEXELS >> level
    column, row = (
        jnp.minimum(((a - jnp.floor(a)) * side).astype(jnp.int32), side - 1)
        for a in (across, along)
    )
    start = jnp.asarray(vb.LEVEL_START)[level]
    kind = jnp.where(facing[1], jnp.where(normal[1] > 0, vb.TOP, vb.BOTTOM), vb.SIDE)
    atlas = vb.atlas()
    place = (hits.block * 3 + kind) * atlas.shape[1] + start + row * side + column
    # Vary each block slightly.
    mix = hits.cell[0] * 73856093 ^ hits.cell[1] * 19349663 ^ hits.cell[2] * 83492791
    vary = 0.95 + 0.1 * ((mix * 40503 >> 8) & 255) / 255
    vary = jnp.where(hits.block == vb.WATER, 1, vary)
    flat = jnp.asarray(atlas.reshape(-1, 3).T.copy())
    return [gather(channel, place) * vary for channel in flat]


def _light_at(
    packed: Array, where: list, facing: list, normal: list, cell: Array
) -> tuple[Array, Array]:
    """Returns sunlight and openness (n,) on faces, linear between cell centres."""
    front = [c + n for c, n in zip(cell, normal, strict=True)]
    first = jnp.where(facing[0], where[1], where[0])
    second = jnp.where(facing[2], where[1], where[2])
    sunlit, openness = 0.0, 0.0
    offsets = [a - jnp.floor(a) - 0.5 for a in (first, second)]
    steps = [jnp.where(o > 0, 1, -1) for o in offsets]
    parts = [jnp.abs(o) for o in offsets]
    for i in (0, 1):
        for j in (0, 1):
            one, two = i * steps[0], j * steps[1]
            at = index(
                front[0] + jnp.where(facing[0], 0, one),
                front[1] + jnp.where(facing[0], one, jnp.where(facing[2], two, 0)),
                front[2] + jnp.where(facing[2], 0, two),
            )
            value = gather(packed, at).astype(jnp.int32)
            weight = (parts[0] if i else 1 - parts[0]) * (
                parts[1] if j else 1 - parts[1]
            )
            sunlit += weight * (value & 255) / 255
            openness += weight * (value >> 8) / 125
    return jnp.asarray(sunlit), jnp.asarray(openness)


def _on_water(
    sky: Sky, colour: list, direction: Array, hits: Hits, flat: Array, texel: list
) -> list[Array]:
    """Mixes the sky into the surface of water, more at flatter angles."""
    ripple = texel[2] - 0.6
    mirror = 0.08 + 0.75 * (1 - jnp.clip(jnp.abs(direction[1]), 0, 1)) ** 3
    mirror = jnp.clip(mirror + 0.8 * ripple, 0, 1)
    mirror = jnp.where((hits.block == vb.WATER) & flat, mirror, 0)
    image = gradient(sky, jnp.abs(direction[1]))
    return [c + (i - c) * mirror for c, i in zip(colour, image, strict=True)]

"""Light of a land of blocks: the sun's shadows, shade in corners, sky and clouds."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from data_pipelines.worlds.voxel_cast import gather
from data_pipelines.worlds.voxel_terrain import SIZE, TALL, value_noise
from soraxla.core.types import Array

_CLOUDS_AT = 90.0  # height of the clouds, in blocks
_CLOUD = 3  # blocks, the side of a cloud cell
_WIND = 1.5  # blocks a second


class Sky(NamedTuple):
    """An hour of the day. Colours are 0…1, of light that is added or mixed."""

    zenith: Float[np.ndarray, " 3"]
    horizon: Float[np.ndarray, " 3"]
    sun: Float[np.ndarray, " 3"]  # its direction, of length 1
    sunlight: Float[np.ndarray, " 3"]
    ambient: Float[np.ndarray, " 3"]
    clouds: Float[np.ndarray, "128 128"]  # opacity


class _Hour(NamedTuple):
    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    sunlight: tuple[float, float, float]
    ambient: float
    height: float  # of the sun, in degrees
    cover: float  # by clouds, about -0.3 to 0.6
    often: float


_HOURS = {
    "morning": _Hour(
        (92, 142, 214), (248, 216, 190), (0.92, 0.78, 0.60), 0.54, 40, -0.02, 0.25
    ),
    "noon": _Hour(
        (64, 128, 226), (178, 212, 246), (0.80, 0.78, 0.73), 0.52, 64, -0.10, 0.4
    ),
    "evening": _Hour(
        (88, 92, 168), (250, 170, 110), (1.02, 0.66, 0.40), 0.50, 34, -0.12, 0.2
    ),
    "overcast": _Hour(
        (142, 156, 172), (196, 204, 210), (0.28, 0.29, 0.31), 0.74, 56, 0.33, 0.15
    ),
}


def make_sky(seed: int) -> tuple[str, Sky]:
    """Returns the name of the hour, and the sky, of a seed."""
    rng = np.random.default_rng((seed, 0x5C1))
    often = [hour.often for hour in _HOURS.values()]
    name = list(_HOURS)[int(rng.choice(len(_HOURS), p=often))]
    hour = _HOURS[name]
    around, up = rng.uniform(0, 2 * np.pi), np.radians(hour.height)
    sun = (np.cos(up) * np.cos(around), np.sin(up), np.cos(up) * np.sin(around))
    noise = value_noise(rng, SIZE, 8, 4, 0.6) + hour.cover
    zenith = np.array(hour.zenith) / 255
    sky = Sky(
        zenith=zenith,
        horizon=np.array(hour.horizon) / 255,
        sun=np.array(sun),
        sunlight=np.array(hour.sunlight),
        ambient=hour.ambient * (0.7 + 0.3 * zenith / zenith.max()),
        clouds=np.clip(noise * 5, 0, 0.9),
    )
    return name, Sky(*(part.astype(np.float32) for part in sky))


def light(
    grid: UInt8[np.ndarray, "x y z"], sun: Float[np.ndarray, " 3"]
) -> UInt16[np.ndarray, "x y z"]:
    """Returns sunlight of each cell in the low byte, openness in the high byte.

    Sunlight descends layer by layer along the sun's slope; light between cells is
    divided among four, so shadows soften with distance. Openness is the empty share of
    the cube of 5 cells; open ground has 3/5.
    """
    empty_YXZ = np.ascontiguousarray((grid == 0).transpose(1, 0, 2)).astype(np.float32)
    slope = sun[[0, 2]] / sun[1]
    sunlit = np.empty(empty_YXZ.shape, np.float32)
    sunlit[-1] = 1
    for y in range(TALL - 2, -1, -1):
        sunlit[y] = sunlit[y + 1] * empty_YXZ[y + 1]
        for axis in (0, 1):
            sunlit[y] = _shifted(sunlit[y], slope[axis], axis)
    count = (grid == 0).astype(np.uint8)
    for axis in (0, 2):
        count = sum((np.roll(count, s, axis) for s in (1, -1, 2, -2)), count)
    count = np.pad(count, ((0, 0), (2, 2), (0, 0)), mode="edge")
    count = sum((count[:, s : s + TALL] for s in range(1, 5)), count[:, :TALL])
    bright = np.round(sunlit.transpose(1, 0, 2) * 255).astype(np.uint16)
    return bright | (count.astype(np.uint16) << 8)


def _shifted(layer: np.ndarray, by: np.floating, axis: int) -> np.ndarray:
    """Returns layer[i + by] along a periodic axis, linear between cells."""
    whole = int(np.floor(by))
    part = np.float32(by - whole)
    low, high = (np.roll(layer, -k, axis) for k in (whole, whole + 1))
    return low * (1 - part) + high * part


def gradient(sky: Sky, up: Array) -> list[Array]:
    """Returns the clear sky's colour (3 of (n,)) for directions of rise `up` (n,)."""
    part = jnp.sqrt(jnp.clip(up, 0, 1))
    return [h + (z - h) * part for z, h in zip(sky.zenith, sky.horizon, strict=True)]


def sky_colour(sky: Sky, origin: Array, direction: Array, seconds: Array) -> list:
    """Returns the sky's colour (3 of (n,)) along unit `direction` (3,n)."""
    colour = gradient(sky, direction[1])
    toward = sum(s * d for s, d in zip(sky.sun, direction, strict=True))
    glow = 0.22 * jnp.clip(toward, 0, 1) ** 12
    disc = jnp.clip((toward - 0.9965) * 900, 0, 1)
    colour = [c + (glow + disc) * s for c, s in zip(colour, sky.sunlight, strict=True)]
    rise = jnp.maximum(direction[1], 0.02)
    away = (_CLOUDS_AT - origin[1]) / rise
    x = origin[0] + away * direction[0] + _WIND * seconds
    z = origin[2] + away * direction[2]
    x, z = (jnp.floor(a / _CLOUD).astype(jnp.int32) % SIZE for a in (x, z))
    # Far clouds are thinner than a pixel, so they fade into the haze.
    cover = gather(sky.clouds.reshape(-1), x * SIZE + z)
    cover = cover * jnp.clip((direction[1] - 0.06) * 4, 0, 1)
    return [
        c + (0.5 * s + 1.1 * a - c) * cover
        for c, s, a in zip(colour, sky.sunlight, sky.ambient, strict=True)
    ]

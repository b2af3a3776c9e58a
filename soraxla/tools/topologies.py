"""TPU topologies: their names, and the peaks and memory of their chips."""

import math
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from soraxla.core.errors import UserError


class Chip(NamedTuple):
    """A device of a TPU generation: its memory for a program, and published peaks."""

    hbm_gib: float
    bf16_teraflops: float
    ici_gigabytes: float  # a second, all links of a device together
    devices: int = 1  # of a chip


_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")

# By the first part of a topology's name. cloud.google.com/tpu/docs has the peaks of a
# chip, and the compiler's refusal of a program that is too large has the memory.
CHIPS = {
    "v5e": Chip(15.75, 197.0, 200.0),
    "v6e": Chip(31.25, 918.0, 448.0),
    "v5p": Chip(95.74, 459.0, 600.0),
    "tpu7x": Chip(94.74, 2307.0 / 2, 600.0 / 2, devices=2),
}
_CUBE, _MOST_CUBES = 128, 96  # cores of 4x4x4 chips of v5p; cubes of its largest slice
_SHAPES = {"v5e": _2D, "v6e": _2D, "v5p": _3D, "tpu7x": _3D}

# By the names that Cloud TPU has for them; those of v5p and tpu7x count cores, two a
# chip.
_CLOUD = {
    f"{prefix}-{cores * math.prod(map(int, shape.split('x')))}": f"{chip}:{shape}"
    for prefix, chip, cores in (
        ("v5litepod", "v5e", 1),
        ("v5e", "v5e", 1),
        ("v5p", "v5p", 2),
        ("v6e", "v6e", 1),
        ("tpu7x", "tpu7x", 2),
        ("v7x", "tpu7x", 2),
    )
    for shape in _SHAPES[chip]
}


def topology_name(name: str) -> str:
    """Returns the topology of a name, or of a Cloud TPU slice such as `v5p-128`."""
    found = re.fullmatch(r"v5p-(\d+)", name)
    cubes, rest = divmod(int(found[1]), _CUBE) if found else (0, 0)
    if 1 <= cubes <= _MOST_CUBES and not rest:
        return "v5p:" + "x".join(str(4 * side) for side in _sides(cubes))
    name = _CLOUD.get(name, name)
    return f"tpu7x:{name[4:]}" if name.startswith("v7x:") else name


def _sides(volume: int) -> tuple[int, int, int]:
    """Returns the sides, in order, of the box of a volume that is most like a cube."""
    divisors = [n for n in range(1, volume + 1) if volume % n == 0]
    boxes = [
        (a, b, volume // (a * b))
        for a in divisors
        for b in divisors
        if volume % (a * b) == 0 and a <= b <= volume // (a * b)
    ]
    return min(boxes, key=sum)


def chip_of(topology: str) -> Chip:
    """Returns the chip of a topology such as `v5p:4x4x4`."""
    return CHIPS[topology.partition(":")[0]]


def topology_devices(name: str) -> list[Any]:
    """Returns the devices of a topology, such as `v5p:4x4x4` (chips, not cores).

    Raises:
        UserError: there is no such topology, or libtpu is not installed or too old.
    """
    if (chip := name.partition(":")[0]) not in CHIPS:
        raise _unknown(name)
    try:
        import libtpu
    except ImportError:
        raise UserError(
            "the TPU compiler, the package libtpu, is missing; in a clone of soraxla: "
            "pip install -e '.[plan]'"
        ) from None
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise UserError(f"the TPU compiler does not start: {error}") from error
        if name.partition(":")[2] in _SHAPES[chip]:
            raise UserError(
                f"the installed libtpu {libtpu.__version__} does not compile for "
                f"{chip}; install a later one"
            ) from None
        raise _unknown(name) from None
    return list(found.devices)


def _unknown(name: str) -> UserError:
    """Returns the error of a name that is no topology, with a list of those that are.

    Only the generation that the name begins with is listed, if it is known.
    """
    named = [chip for chip in CHIPS if topology_name(name).startswith(chip)]
    known = "; ".join(
        f"{chip} has {', '.join(_SHAPES[chip])}" for chip in named or CHIPS
    )
    return UserError(
        f"unknown topology {name!r}, expected CHIP:SHAPE such as v5p:4x4x4, or Cloud "
        f"TPU's name for it, such as v5p-128; {known}, and more boxes of 4x4x4"
    )

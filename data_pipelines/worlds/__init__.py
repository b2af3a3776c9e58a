"""Simulated worlds: each clip comes with the exact state that it shows."""

from typing import Any

from data_pipelines.worlds import effects, marks, occlusion, physics
from data_pipelines.worlds.episode import Episode, World
from data_pipelines.worlds.sizes import Size, draw_size


def _voxel(seed: int, **size: Any) -> Episode:
    """Simulates a player's clip, or for every third seed a free camera's."""
    from data_pipelines.worlds import voxel  # JAX is slow to import

    return (voxel.simulate if seed % 3 else voxel.film)(seed, **size)


WORLDS: dict[str, World] = {
    "occlusion": occlusion.simulate,
    "physics": physics.simulate,
    "marks": marks.simulate,
    "voxel": _voxel,
    "effects": effects.simulate,
}

__all__ = ["WORLDS", "Episode", "Size", "World", "draw_size"]

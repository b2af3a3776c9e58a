"""Worlds whose truth is known: each clip comes with the exact state behind it."""

from data_pipelines.worlds import marks, occlusion, physics
from data_pipelines.worlds.episode import Episode, World
from data_pipelines.worlds.sizes import Size, draw_size

WORLDS: dict[str, World] = {
    "occlusion": occlusion.simulate,
    "physics": physics.simulate,
    "marks": marks.simulate,
}

__all__ = ["WORLDS", "Episode", "Size", "World", "draw_size"]

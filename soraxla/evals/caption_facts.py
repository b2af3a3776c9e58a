"""The facts of a caption of the worlds, read by their grammar, and the simulator's.

Two facts are equal or not; no other wording of a caption changes its score.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.worlds import WORLDS
from data_pipelines.worlds.draw import COLOURS, SHAPES
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.occlusion_scene import WALLS
from data_pipelines.worlds.occlusion_words import NOUNS, TOWARD
from data_pipelines.worlds.words import NUMBERS
from soraxla.evals.caption_facts_effects import read_effects, true_effects
from soraxla.evals.caption_facts_marks import read_marks, true_marks
from soraxla.evals.caption_facts_voxel import read_voxel, true_voxel

# A fact by its name; None is not asked.
Facts = Mapping[str, Any]

_STILL = 1.0  # pixels that a ball may move and still counts as at rest
_COLOUR = "|".join(COLOURS)
_SHAPE_OF = {noun: name for name in SHAPES for noun in NOUNS.get(name, (name,))}
_SHAPE = re.compile(rf"\b({_COLOUR}) ({'|'.join(_SHAPE_OF)})\b")
# Longer phrases first: "to the right" is a part of others.
_PHRASES = sorted(
    ((phrase, name) for name, phrases in TOWARD.items() for phrase in phrases),
    key=lambda pair: -len(pair[0]),
)
_TOWARD = re.compile(rf"\b({'|'.join(re.escape(phrase) for phrase, _ in _PHRASES)})\b")
_WALLS = re.compile(
    rf"\b(an?|{'|'.join(NUMBERS)}) (?:{'|'.join(WALLS)}) (?:wall|pillar|beam)s?\b"
)
_BALL = re.compile(rf"\b({_COLOUR}) ball\b")
_BALLS = re.compile(rf"\bballs, ((?:{_COLOUR}|, | and )+)")


class World(NamedTuple):
    """The facts of a world: of the simulator's state, and of a caption."""

    true: Callable[[Episode], Facts]
    read: Callable[[str], Facts]


def _true_occlusion(episode: Episode) -> Facts:
    state = episode.state
    moving = [str(name) for name in state["direction"]]
    picture = len(episode.video) == 1
    pairs = zip(state["colour"], state["shape"], strict=True)
    names = [tuple(map(str, pair)) for pair in pairs]
    relation = "open"
    if len(state["walls"]):
        relation = "behind" if all(moving) and not picture else "beside"
    shapes = [(*name, move) for name, move in zip(names, moving, strict=True)]
    return {
        "colour": sorted(colour for colour, _ in names),
        "shape": sorted(shape for _, shape in names),
        "direction": None if picture else sorted(moving),
        "count": len(names),
        "relation": relation,
        "walls": len(state["walls"]),
        "colour, shape and direction": None if picture else sorted(shapes),
    }


def _read_occlusion(caption: str) -> Facts:
    found = list(_SHAPE.finditer(caption))
    ends = [*(match.start() for match in found), len(caption)][1:]
    shapes = []
    for match, end in zip(found, ends, strict=True):
        toward = _TOWARD.search(caption, match.end(), end)
        direction = dict(_PHRASES)[toward[1]] if toward else ""
        shapes.append((match[1], _SHAPE_OF[match[2]], direction))
    walls = _WALLS.search(caption)
    count = 0
    if walls:
        count = NUMBERS.index(walls[1]) if walls[1] in NUMBERS else 1
    behind = "behind" in caption or "hidden by" in caption
    return {
        "colour": sorted(colour for colour, _, _ in shapes),
        "shape": sorted(shape for _, shape, _ in shapes),
        "direction": sorted(direction for _, _, direction in shapes),
        "count": len(shapes),
        "relation": ("behind" if behind else "beside") if walls else "open",
        "walls": count,
        "colour, shape and direction": sorted(shapes),
    }


def _true_physics(episode: Episode) -> Facts:
    state = episode.state
    path, colours = state["position"], state["colour"]
    moves = np.ptp(path, axis=0).max(-1) > _STILL
    still = len(path) == 1 or not moves.any()
    falls = bool(state["gravity"]) and not still
    named = colours[moves] if falls else colours  # balls at rest in the air have none
    met = [str(name) for name in state["bounce_against"]]
    many = len(named) > 1 if falls else int(moves.sum()) > 1
    told = not still and many and (not falls or "floor" in met)
    motion = "still" if still else ("fall" if falls else "roll")
    return {
        "colour": sorted(map(str, named)),
        "count": len(named),
        "motion": motion,
        # A caption need not tell that falling balls meet.
        "relation": any(m.startswith("ball") for m in met)
        if told and not falls
        else None,
    }


def _read_physics(caption: str) -> Facts:
    colours = _BALL.findall(caption)
    for listed in _BALLS.findall(caption):
        colours += re.findall(_COLOUR, listed)
    rolls = re.search(r"\b(rolls?|moves?)\b", caption)
    falls = re.search(r"\b(falls?|drops?|bounces?|pulls)\b", caption)
    motion = "roll" if rolls else ("fall" if falls else "still")
    return {
        "colour": sorted(colours),
        "count": len(colours),
        "motion": motion,
        "relation": "collide" in caption or "hit each other" in caption,
    }


FACTS: dict[str, World] = {
    "occlusion": World(_true_occlusion, _read_occlusion),
    "physics": World(_true_physics, _read_physics),
    "marks": World(true_marks, read_marks),
    "voxel": World(true_voxel, read_voxel),
    "effects": World(true_effects, read_effects),
}
assert FACTS.keys() == WORLDS.keys()

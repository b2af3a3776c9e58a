"""The facts of captions of the world `marks`: strokes, or food and its bites."""

import re
from collections.abc import Mapping
from typing import Any

from data_pipelines.worlds.bites import TIMES
from data_pipelines.worlds.brush import NOUNS, TOOLS
from data_pipelines.worlds.draw import COLOURS
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.food import FOODS
from data_pipelines.worlds.words import NUMBERS

_SHAPE_OF = {noun: name for name, nouns in NOUNS.items() for noun in nouns}
_LONGEST = "|".join(sorted(_SHAPE_OF, key=len, reverse=True))
_STROKE = re.compile(rf"\b({'|'.join(COLOURS)}) ({_LONGEST})\b")
_TOOL_NAMES = [tool.name for tool in TOOLS]
_SURFACES = [surface for tool in TOOLS for surface in tool.surfaces]
_BITES = re.compile(rf"\b({'|'.join(NUMBERS)}) bites?\b")
_BITTEN = re.compile(rf"\bbitten ({'|'.join(TIMES)})\b")


def true_marks(episode: Episode) -> Mapping[str, Any]:
    """Returns the facts of the simulator's state; tables are not always told."""
    state = episode.state
    if "stroke" not in state:
        return {
            "object": str(state["object"][0]),
            "colour": None,
            "shape": None,
            "count": len(state["bite_time"]),
            "surface": None,
        }
    strokes = [str(name) for name in state["stroke"]]
    return {
        "object": str(state["object"][1]),
        "colour": [str(state["colour"])] * len(strokes),
        "shape": sorted(strokes),
        "count": len(strokes),
        "surface": str(state["surface"]),
    }


def read_marks(caption: str) -> Mapping[str, Any]:
    """Returns the facts that a caption states."""
    strokes = _STROKE.findall(caption)
    count = len(strokes)
    if not strokes:
        bites, bitten = _BITES.search(caption), _BITTEN.search(caption)
        count = NUMBERS.index(bites[1]) if bites else 0
        count = TIMES.index(bitten[1]) if bitten else count
    return {
        "object": _first(_TOOL_NAMES if strokes else list(FOODS), caption),
        "colour": sorted(colour for colour, _ in strokes),
        "shape": sorted(_SHAPE_OF[noun] for _, noun in strokes),
        "count": count,
        "surface": _first(_SURFACES, caption),
    }


def _first(names: list[str], caption: str) -> str | None:
    found = (name for name in names if re.search(rf"\b{name}\b", caption))
    return next(found, None)

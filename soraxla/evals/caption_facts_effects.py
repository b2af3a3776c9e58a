"""The facts of captions of the world `effects`, of whichever scene is shown."""

import re
from collections.abc import Mapping
from typing import Any

from data_pipelines.worlds.draw import COLOURS
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.glass import THINGS
from data_pipelines.worlds.words import NUMBERS

_COLOUR = "|".join(COLOURS)
_OTHER = {"left": "right", "right": "left"}
_CANDLE = re.compile(rf"\b({_COLOUR}) candle\b")
_BURNS = re.compile(r"\b(burns|flickers|gives light|with a flame)\b")
_THING = re.compile(rf"\b({_COLOUR}) ({'|'.join(THINGS)})\b")
_PIECES = re.compile(rf"\b({'|'.join(NUMBERS)}) pieces\b")
_BELT = re.compile(r"\bruns to the (left|right)\b")
_WALKER = re.compile(r"\b(?:facing|goes|to the) (left|right)\b")
_FISH = re.compile(
    rf"\b({_COLOUR}) fish\b(?: (?:swims|glides|moves) "
    r"(?:to the (?P<to>left|right)(?P<out> out of the picture)?"
    r"|in from the (?P<source>left|right)))?"
)
_NONE: dict[str, Any] = dict.fromkeys(
    (
        *("scene", "colour", "thing", "count", "flame", "direction", "fate"),
        "colour, direction and fate",
    )
)


def true_effects(episode: Episode) -> Mapping[str, Any]:
    """Returns the facts of the simulator's state that all captions tell."""
    state, picture = episode.state, len(episode.video) == 1
    scene = str(state["scene"])
    facts: dict[str, Any] = _NONE | {"scene": scene}
    if scene == "candle":
        facts["colour"] = [str(state["colour"])]
        facts["flame"] = "burns" if state["lit"].all() else "out"
    elif scene == "glass":
        facts["colour"] = [str(state["colour"])]
        facts["thing"] = str(state["thing"])
        facts["count"] = int(state["pieces"])
    elif scene == "treadmill":
        facts["direction"] = None if picture else [str(state["side"])]
    else:
        names = ("colour", "direction", "fate")
        fish = [
            tuple(map(str, each))
            for each in zip(*(state[n] for n in names), strict=True)
        ]
        facts["colour"] = sorted(colour for colour, _, _ in fish)
        facts["count"] = len(fish)
        if not picture:
            facts |= _of_fish(fish)
    return facts


def read_effects(caption: str) -> Mapping[str, Any]:
    """Returns the facts that a caption states."""
    facts: dict[str, Any] = dict(_NONE)
    if candle := _CANDLE.search(caption):
        facts |= {"scene": "candle", "colour": [candle[1]]}
        facts["flame"] = "burns" if _BURNS.search(caption) else "out"
    elif thing := _THING.search(caption):
        pieces = _PIECES.search(caption)
        facts |= {"scene": "glass", "colour": [thing[1]], "thing": thing[2]}
        facts["count"] = NUMBERS.index(pieces[1]) if pieces else None
    elif "treadmill" in caption:
        belt, walker = _BELT.search(caption), _WALKER.search(caption)
        facts["scene"] = "treadmill"
        if belt or walker:
            side = _OTHER[belt[1]] if belt else walker[1] if walker else ""
            facts["direction"] = [side]
    elif found := [*_FISH.finditer(caption)]:
        fish = []
        for match in found:
            fate = "leaves" if match["out"] else "stays"
            source = match["source"]
            way = match["to"] or (_OTHER[source] if source else "")
            fish.append((match[1], way, "enters" if source else fate))
        facts |= {"scene": "fish", "count": len(fish)} | _of_fish(fish)
        facts["colour"] = sorted(colour for colour, _, _ in fish)
    return facts


def _of_fish(fish: list[tuple[str, ...]]) -> dict[str, Any]:
    return {
        "direction": sorted(way for _, way, _ in fish),
        "fate": sorted(fate for _, _, fate in fish),
        "colour, direction and fate": sorted(fish),
    }

"""The facts of captions of the world `voxel`: the land, and a player or a camera."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.voxel_words import (
    HOURS,
    MOST,
    PLACES,
    THINGS,
    path_side,
    seen_things,
)
from data_pipelines.worlds.words import NUMBERS

_THING_OF = {phrase: name for name, phrases in THINGS.items() for phrase in phrases}
_THINGS = re.compile(r", with ([^.]*)\.")
_SIDE = re.compile(r"\b(left|right)\b")
_CAMERA = {
    "orbit": re.compile(r"\b(?:camera circles|view moves)\b[^.]*"),
    "flight": re.compile(r"\b(?:camera flies|view glides)\b[^.]*"),
    "turn": re.compile(r"\b(?:camera turns|view pans)\b[^.]*"),
}
_EDIT = re.compile(
    r"\b(digs out|removes|places|puts down) (?:a block|(\w+) blocks) of (\w+)"
)
_VERBS = {"digs out": "dig", "removes": "dig", "places": "place", "puts down": "place"}


def true_voxel(episode: Episode) -> Mapping[str, Any]:
    """Returns the facts of the simulator's state.

    A caption tells a few deeds only, but every block that is dug or placed, if they are
    at most `MOST`.
    """
    state, picture = episode.state, len(episode.video) == 1
    biome, film = str(state["biome"]), "path" in state
    camera = str(state["path"]) if film and not picture else None
    edits = sorted(_edits(state))
    told = not film and not picture and sum(count for *_, count in edits) <= MOST
    return {
        "land": biome,
        "hour": str(state["hour"]),
        "things": sorted(seen_things(biome, episode.ids)),
        "camera": camera,
        "direction": camera and path_side(camera, state["yaw"]),
        "edits": edits if told else None,
    }


def read_voxel(caption: str) -> Mapping[str, Any]:
    """Returns the facts that a caption states."""
    text = caption.lower()
    things = _THINGS.search(text)
    listed = re.split(r", | and ", things[1]) if things else []
    camera = next((name for name, said in _CAMERA.items() if said.search(text)), None)
    said = camera and _CAMERA[camera].search(text)
    side = _SIDE.search(said[0]) if said else None
    edits: Counter[tuple[str, str]] = Counter()
    for verb, number, block in _EDIT.findall(text):
        count = NUMBERS.index(number) if number in NUMBERS else number or 1
        edits[_VERBS[verb], block] += int(count) if str(count).isdecimal() else 0
    return {
        "land": _named(PLACES, text),
        "hour": _named(HOURS, text),
        "things": sorted(_THING_OF.get(phrase, phrase) for phrase in listed),
        "camera": camera,
        "direction": side[1] if side else "",
        "edits": sorted((*deed, count) for deed, count in edits.items()),
    }


def _edits(state: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yields each kind of digging and placing, its block, and how often."""
    now: dict[tuple[int, ...], int] = {}
    found: Counter[tuple[str, str]] = Counter()
    for _, *cell, block in state["edits"].tolist():
        before = now.get(tuple(cell), int(state["grid"][tuple(cell)]))
        now[tuple(cell)] = block
        deed = ("dig", before) if block == vb.AIR else ("place", block)
        found[deed[0], vb.BLOCKS[deed[1]]] += 1
    for deed, count in found.items():
        yield *deed, count


def _named(phrases: Mapping[str, tuple[str, ...]], text: str) -> str | None:
    """Returns the key of the longest phrase in a text."""
    pairs = ((phrase, name) for name, each in phrases.items() for phrase in each)
    found = [(len(phrase), name) for phrase, name in pairs if phrase in text]
    return max(found)[1] if found else None

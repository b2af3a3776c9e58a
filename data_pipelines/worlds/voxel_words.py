"""Captions of the land of blocks, from the view and the events."""

from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.voxel_actions import ACTIONS
from data_pipelines.worlds.words import NUMBERS, listed, one_of

PLACES = {
    "meadow": ("a green meadow", "grassland", "a land of grass"),
    "forest": ("a forest", "a dense wood", "woodland"),
    "desert": ("a desert", "a sandy desert", "a land of sand dunes"),
    "lakes": ("a land of lakes", "a lakeland", "low, wet country"),
    "mountains": ("steep mountains", "a mountain range", "a land of rocky mountains"),
    "snow": ("a snowy land", "a land under snow", "a winter landscape"),
}
HOURS = {
    "morning": ("in the morning light", "in the morning", "under a pale morning sky"),
    "noon": ("under a blue sky", "at noon", "on a bright day"),
    "evening": ("at sunset", "in the evening light", "under an orange evening sky"),
    "overcast": ("under a grey sky", "on a cloudy day", "in dull weather"),
}
THINGS = {
    "trees": ("trees", "some trees"),
    "firs": ("firs", "fir trees"),
    "cacti": ("cacti", "green cacti"),
    "water": ("water", "blue water"),
    "sand": ("sand", "a sandy shore", "a beach"),
    "rock": ("bare rock", "grey stone"),
    "snow": ("snow", "patches of snow"),
}
# The block of each, the least share of a clip's pixels, and a land that implies it.
_SEEN = {
    "trees": (vb.LEAVES, 0.02, "forest"),
    "firs": (vb.NEEDLES, 0.02, None),
    "cacti": (vb.CACTUS, 0.004, None),
    "water": (vb.WATER, 0.02, None),
    "sand": (vb.SAND, 0.05, "desert"),
    "rock": (vb.STONE, 0.04, None),
    "snow": (vb.SNOW, 0.03, "snow"),
}
_OPENINGS = (
    "{place} made of blocks {hour}{things}.",
    "A world of cubes: {place} {hour}{things}.",
    "{place}, built of blocks, {hour}{things}.",
    "A blocky world {hour}: {place}{things}.",
    "{hour}: {place} made of cubes{things}.",
    "{hour}, in a game of blocks: {place}{things}.",
    "{place} in a game of blocks, {hour}{things}.",
    "A voxel world with {place} {hour}{things}.",
)
_PATHS = {
    "orbit": (
        "The camera circles {side} around a spot on the ground.",
        "The view moves {side} around one place.",
    ),
    "flight": (
        "The camera flies forward over the land{bend}.",
        "The view glides onwards above the ground{bend}.",
    ),
    "turn": (
        "The camera turns {side} on the spot.",
        "The view pans to the {side}.",
    ),
}
_DEEDS = {
    "forward": ("walks forward", "walks ahead"),
    "back": ("walks backwards", "steps back"),
    "step_left": ("sidesteps to the left", "moves left"),
    "step_right": ("sidesteps to the right", "moves right"),
    "left": ("turns left", "turns to the left"),
    "right": ("turns right", "turns to the right"),
    "up": ("looks up", "raises the view"),
    "down": ("looks down", "lowers the view"),
    "forward left": ("walks in a bend to the left", "walks on while turning left"),
    "forward right": ("walks in a bend to the right", "walks on while turning right"),
    "jump": ("jumps", "leaps up"),
    "stopped": ("is stopped by a wall", "cannot go on"),
}
_STANDS = ("stands still", "waits")
_EDITS = ("dig", "place")
MOST = 5  # the most deeds in a caption
_BEND = 12.0  # degrees


class PlayerHistory(NamedTuple):
    """The data for a sentence on a player's deeds; one row per frame."""

    actions: Float[np.ndarray, "t a"]
    grounded: Bool[np.ndarray, " t"]
    stopped: Bool[np.ndarray, " t"]  # by an obstacle, before the frame
    dug: list[str]  # (T,): the block dug before the frame, or ""
    placed: list[str]


def scene_words(
    rng: np.random.Generator,
    biome: str,
    hour: str,
    ids: UInt8[np.ndarray, "t h w"],
) -> str:
    """Writes a sentence for the visible land."""
    things = [one_of(rng, THINGS[name]) for name in seen_things(biome, ids)]
    sentence = one_of(rng, _OPENINGS).format(
        place=one_of(rng, PLACES[biome]),
        hour=one_of(rng, HOURS[hour]),
        things=f", with {listed(things)}" if things else "",
    )
    return sentence[0].upper() + sentence[1:]


def seen_things(biome: str, ids: UInt8[np.ndarray, "t h w"]) -> list[str]:
    """Returns the names in `THINGS` of what a caption of the view mentions."""
    share = np.bincount(ids.reshape(-1), minlength=len(vb.BLOCKS)) / ids.size
    return [
        name
        for name, (block, least, implied_by) in _SEEN.items()
        if share[block] > least and biome != implied_by
    ]


def path_side(kind: str, yaw: np.ndarray) -> str:
    """Returns the side that a camera's path turns to, "left" or "right", or "".

    A flight has a side only if it bends by more than 12 degrees.

    Args:
        yaw: (T,) degrees.
    """
    turned = float(yaw[-1] - yaw[0])
    if kind == "flight" and abs(turned) <= _BEND:
        return ""
    # A camera that circles to the right turns left, to keep its target in view.
    right = (turned < 0) if kind == "orbit" else (turned > 0)
    return "right" if right else "left"


def both_ways(rng: np.random.Generator, scene: str, motion: str) -> str:
    """Joins the two sentences, in random order."""
    return " ".join((scene, motion) if rng.random() < 0.6 else (motion, scene))


def path_words(rng: np.random.Generator, kind: str, yaw: np.ndarray) -> str:
    """Writes a sentence for a camera's path; `yaw` (T,) in degrees."""
    side = path_side(kind, yaw)
    bend = f" and bends to the {side}" if side else ""
    return one_of(rng, _PATHS[kind]).format(side=side, bend=bend)


def player_words(rng: np.random.Generator, history: PlayerHistory, fps: float) -> str:
    """Writes a sentence for a player's deeds, in their order."""
    deeds = [_deed(history, i) for i in range(1, len(history.actions))]
    runs = [(deed, len(list(run))) for deed, run in groupby(filter(None, deeds))]
    long = [
        (deed, count)
        for deed, count in runs
        if count / fps > 0.18 or deed.startswith((*_EDITS, "jump"))
    ]
    merged = _merged(long)
    # Too many deeds: those that change the land come first, then long ones.
    order = sorted(
        range(len(merged)),
        key=lambda i: (not merged[i][0].startswith(_EDITS), -merged[i][1]),
    )
    kept = _merged([merged[i] for i in sorted(order[:MOST])])
    phrases = [_phrase(rng, *deed) for deed in kept]
    who = one_of(rng, ("The player", "Someone", "The walker"))
    joiner = one_of(rng, ("and then ", "then ")) if len(phrases) > 2 else ""
    if joiner:
        phrases[-1] = joiner + phrases[-1]
        return f"{who} {', '.join(phrases)}."
    return f"{who} {listed(phrases or [one_of(rng, _STANDS)])}."


def _merged(runs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Joins consecutive runs of the same deed."""
    return [
        (deed, sum(count for _, count in same))
        for deed, same in groupby(runs, key=lambda run: run[0])
    ]


def _deed(history: PlayerHistory, i: int) -> str:
    """Returns the main deed between frames i-1 and i; "" for none."""
    if history.dug[i]:
        return f"dig {history.dug[i]}"
    if history.placed[i]:
        return f"place {history.placed[i]}"
    done = {name for name, on in zip(ACTIONS, history.actions[i], strict=True) if on}
    if "jump" in done and history.grounded[i - 1] and not history.grounded[i]:
        return "jump"
    walks = [w for w in ("forward", "back", "step_left", "step_right") if w in done]
    sides = [s for s in ("left", "right") if s in done]
    looks = [v for v in ("up", "down") if v in done]
    if len(walks) == 1:
        if history.stopped[i]:
            return "stopped"
        if walks == ["forward"] and len(sides) == 1:
            return f"forward {sides[0]}"
        return walks[0]
    if not walks and len(sides) == 1:
        return sides[0]
    return looks[0] if len(looks) == 1 and not walks and not sides else ""


def _phrase(rng: np.random.Generator, deed: str, count: int) -> str:
    verb, _, block = deed.partition(" ")
    if verb not in _EDITS:
        return one_of(rng, _DEEDS[deed])
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    what = f"{number} blocks of {block}" if count > 1 else f"a block of {block}"
    if verb == "dig":
        return one_of(rng, (f"digs out {what}", f"removes {what}"))
    return one_of(rng, (f"places {what}", f"puts down {what}"))

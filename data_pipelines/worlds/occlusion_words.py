"""Captions of the world `occlusion`, written from its state."""

from collections.abc import Mapping

import numpy as np

from data_pipelines.worlds.words import NUMBERS, article, listed, one_of

TOWARD = {
    "right": ("to the right", "from left to right", "rightward"),
    "left": ("to the left", "from right to left", "leftward"),
    "up": ("up", "upward", "from bottom to top"),
    "down": ("down", "downward", "from top to bottom"),
    "up right": ("up and to the right", "diagonally to the upper right"),
    "down right": ("down and to the right", "diagonally to the lower right"),
    "up left": ("up and to the left", "diagonally to the upper left"),
    "down left": ("down and to the left", "diagonally to the lower left"),
}
NOUNS = {"circle": ("circle", "disc"), "cross": ("cross", "plus sign")}
_MOVES = ("moves", "glides", "slides", "drifts", "travels", "floats")
_RESTS = ("rests", "stays still", "does not move", "stands still")
_HIDDEN = 0.02  # visible share below which a shape is out of sight

_BEHIND = (
    "{shape} {moves} {toward} and passes behind {wall}",
    "{shape} {moves} {toward} behind {wall}",
    "{shape} goes behind {wall} as it {moves} {toward}",
    "behind {wall}, {shape} {moves} {toward}",
    "{shape} {moves} {toward}, passing behind {wall} on a {backdrop} background",
    "against a {backdrop} background, {shape} {moves} {toward} behind {wall}",
    "a scene with {wall}: {shape} {moves} {toward} and passes behind",
    "{shape} {moves} {toward}, goes behind {wall} and comes out on the other side",
)
_OUT_OF_SIGHT = (
    "{shape} {moves} {toward}, disappears behind {wall} and comes back into view",
    "{shape} is hidden by {wall} for a moment as it {moves} {toward}",
    "{shape} {moves} {toward}, vanishes behind {wall} and appears again",
)
_OPEN = (
    "{shape} {moves} {toward}",
    "{shape} {moves} {toward} across a {backdrop} background",
    "{shape} {moves} {toward} in front of a {backdrop} background",
    "on a {backdrop} background, {shape} {moves} {toward}",
    "nothing hides {shape} as it {moves} {toward}",
    "{shape} crosses the picture and {moves} {toward}",
)
_AT_REST = (
    "{shape} {rests} on a {backdrop} background",
    "{shape} on a {backdrop} background {rests}",
    "{shape} that {rests}",
)
_AT_REST_BESIDE = (
    "{shape} {rests} beside {wall}",
    "{shape} {rests} next to {wall} on a {backdrop} background",
    "beside {wall}, {shape} {rests}",
)
_PICTURES = ("{shape} on a {backdrop} background", "{shape}")
_PICTURES_BESIDE = (
    "{shape} beside {wall}",
    "{shape} next to {wall} on a {backdrop} background",
)


def caption(rng: np.random.Generator, state: Mapping[str, np.ndarray]) -> str:
    """Writes a sentence with each shape's colour and direction, and the walls."""
    names = zip(state["colour"], state["shape"], strict=True)
    shapes = [
        article(f"{colour} {one_of(rng, NOUNS.get(shape, (shape,)))}")
        for colour, shape in names
    ]
    words = {"wall": _wall(rng, state), "backdrop": state["backdrop"]}
    picture = len(state["position"]) == 1
    if picture:
        forms = _PICTURES_BESIDE if words["wall"] else _PICTURES
        return one_of(rng, forms).format(shape=listed(shapes), **words)
    if len(shapes) > 1:
        return _several(rng, state, shapes, words)
    words |= {"shape": shapes[0], "moves": one_of(rng, _MOVES)}
    words |= {"rests": one_of(rng, _RESTS)}
    direction = str(state["direction"][0])
    if not direction:
        forms = _AT_REST_BESIDE if words["wall"] else _AT_REST
    elif not words["wall"]:
        forms = _OPEN
    elif state["visible"].min() < _HIDDEN:
        forms = _BEHIND + _OUT_OF_SIGHT
    else:
        forms = _BEHIND
    toward = one_of(rng, TOWARD[direction]) if direction else ""
    return one_of(rng, forms).format(toward=toward, **words)


def _wall(rng: np.random.Generator, state: Mapping[str, np.ndarray]) -> str:
    """Returns "a grey wall", "two grey walls", or "" without one."""
    count = len(state["walls"])
    if not count:
        return ""
    left, top, right, bottom = state["walls"][0]
    upright = bottom - top > right - left
    noun = one_of(rng, ("wall", "wall", "pillar" if upright else "beam"))
    colour = state["wall_colour"]
    return f"{NUMBERS[count]} {colour} {noun}s" if count > 1 else f"a {colour} {noun}"


def _several(
    rng: np.random.Generator,
    state: Mapping[str, np.ndarray],
    shapes: list[str],
    words: dict[str, str],
) -> str:
    directions = [str(direction) for direction in state["direction"]]
    clauses = [
        f"{shape} {one_of(rng, _MOVES)} {one_of(rng, TOWARD[direction])}"
        if direction
        else f"{shape} {one_of(rng, _RESTS)}"
        for shape, direction in zip(shapes, directions, strict=True)
    ]
    text = listed(clauses)
    if len(clauses) == 2 and rng.random() < 0.4:
        text = " while ".join(clauses)
    if not words["wall"]:
        forms = (
            "{text}",
            "{text} on a {backdrop} background",
            "{count} shapes: {text}",
        )
    elif all(directions):
        forms = ("{text}, passing behind {wall}", "behind {wall}, {text}")
    else:
        forms = ("{text}, with {wall} in the scene", "a scene with {wall}: {text}")
    count = NUMBERS[len(shapes)]
    return one_of(rng, forms).format(text=text, count=count, **words)

"""The family `text`: a clip must show its prompt's colour, shape and direction."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds import occlusion
from data_pipelines.worlds.draw import COLOURS, SHAPES
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.occlusion_scene import DIRECTIONS
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench.cases import (
    FIRST_SEED,
    Case,
    Family,
    Measure,
    Score,
    candidates,
    nothing_to_ask,
)
from soraxla.evals.worldbench.reading import Reading, read_shape

_NEW_EVERY = 5  # a fifth of the prompts have a held-out triple


def case(seed: int, size: Size) -> Case:
    """Returns a prompt only, of one shape that moves far enough to be read in truth."""
    new = (seed - FIRST_SEED) % _NEW_EVERY == 0
    for candidate in candidates(seed) if size.frames > 1 else ():
        truth = occlusion.simulate(candidate, **size._asdict(), held_out=new)
        moves = len(truth.state["colour"]) == 1 and truth.state["direction"][0]
        if moves and read_shape(truth.video) == requested(truth):
            return Case(candidate, truth, 0)
    raise nothing_to_ask("occlusion", size)


def requested(truth: Episode) -> Reading:
    return Reading(*(str(truth.state[name][0]) for name in Reading._fields))


def score(case: Case, video: np.ndarray) -> Score:
    want, read = requested(case.truth), read_shape(video)
    right = [float(a == b) for a, b in zip(want, read, strict=True)]
    values = dict(zip(Reading._fields, right, strict=True)) | {"all three": min(right)}
    new = tuple(want) in occlusion.HELD_OUT
    values |= {"all three, new": min(right) if new else np.nan}
    return Score(values, {}, "read: " + " ".join(word or "nothing" for word in read))


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Returns the chance levels of a fully right answer."""
    triples = Counter(requested(case.truth) for case in cases)
    return {
        "best constant guess": triples.most_common(1)[0][1] / len(cases),
        "guessing each word": 1 / (len(COLOURS) * len(SHAPES) * len(DIRECTIONS)),
    }


def _right(what: str) -> Measure:
    return Measure(unit="share", what=what, higher=True, copies=False)


FAMILY = Family(
    what="a clip from the prompt only, read from its pixels",
    measures={
        "all three": _right("of clips of the right colour, shape and direction"),
        "all three, new": _right("of those whose triple no dataset has"),
        "colour": _right("of clips of the right colour"),
        "shape": _right("of clips of the right shape"),
        "direction": _right("of clips of the right direction"),
    },
    case=case,
    score=score,
    chance=chance,
    clips=100,
)

"""The family `count`: fish leave at the picture's sides only, and none appears."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from data_pipelines.worlds import effects
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench.cases import (
    Case,
    Family,
    Measure,
    Score,
    Video,
    candidates,
    nothing_to_ask,
)
from soraxla.evals.worldbench.tracking import background, changed

CONDITION_FRAMES = 9  # frames, 3 latents
_OUT, _IN = 0.1, 0.9  # visible share
_SMALLEST, _LARGEST = 0.4, 2.5  # of the smallest and the largest fish: a fish
_EDGE = 2  # pixels from a side
_FAR = 0.25  # of the shorter side: the most that a fish moves in a frame
_ALIKE = 90.0  # in RGB: the same fish


class Things(NamedTuple):
    """Patches of a frame: middles, mean colours, those at a side, and large ones."""

    place: Float[np.ndarray, "n 2"]
    colour: Float[np.ndarray, "n 3"]
    at_side: Bool[np.ndarray, "n"]
    large: Bool[np.ndarray, "n"]  # as large as a fish


def case(seed: int, size: Size) -> Case:
    """Returns fish of which one leaves after the condition frames, and none enters."""
    for candidate in candidates(seed) if size.frames >= CONDITION_FRAMES + 4 else ():
        truth = effects.simulate(candidate, **size._asdict(), scene="fish")
        visible = truth.state["visible"]
        leaves = (visible[CONDITION_FRAMES - 1 :].min(0) < _OUT).any()
        if leaves and visible[CONDITION_FRAMES - 1].min() > _IN:
            return Case(candidate, truth, CONDITION_FRAMES)
    raise nothing_to_ask("effects", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, shown = case.truth, case.truth.state["shown"].astype(float)
    # A clip continues the true condition frames.
    given, made = slice(0, case.condition_frames), slice(case.condition_frames, None)
    frames = things(np.concatenate([truth.video[given], video[made]]), truth)
    count = np.array([frame.large.sum() for frame in frames], float)
    visible = truth.state["visible"]
    clear = ((visible > _IN) | (visible < _OUT)).all(1)
    clear[: case.condition_frames] = False
    off, most = np.abs(count - shown)[clear], visible.shape[1]
    far = _FAR * min(video.shape[1:3])
    pairs = itertools.pairwise(frames[case.condition_frames - 1 :])
    without_cause = sum(changes(before, after, far) for before, after in pairs)
    values = {
        "count error": float(np.fmin(off, most).mean()) if clear.any() else np.nan,
        "changes without cause": float(min(without_cause, most)),
    }
    return Score(values, {"fish": (shown, count)})


def things(video: Video, truth: Episode) -> list[Things]:
    """Returns the patches of each frame that differ from the true background."""
    ids = truth.ids[:CONDITION_FRAMES]
    whole = [(ids == k + 1).sum((1, 2)).max() for k in range(truth.ids.max())]
    sizes = _SMALLEST * min(whole), _LARGEST * max(whole)
    masks = changed(video, background(truth))
    return [_things(*pair, *sizes) for pair in zip(video, masks, strict=True)]


def _things(
    frame: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    smallest: float,
    largest: float,
) -> Things:
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    found = []
    for k, box in enumerate(ndimage.find_objects(labels), 1):
        patch = labels[box] == k
        area = int(patch.sum())
        side = box[1].start < _EDGE or box[1].stop > mask.shape[1] - _EDGE
        if not smallest * (0.25 if side else 1) <= area <= largest:
            continue
        rows, columns = np.nonzero(patch)
        middle = columns.mean() + box[1].start, rows.mean() + box[0].start
        colour = frame[box][patch].mean(0)
        found.append((*middle, *colour, side, area >= smallest))
    rows = np.array(found, float).reshape(-1, 7)
    return Things(rows[:, :2], rows[:, 2:5], rows[:, 5] > 0, rows[:, 6] > 0)


def changes(before: Things, after: Things, far: float) -> int:
    """Counts patches that vanish or appear between two frames, away from the sides."""
    apart = np.linalg.norm(before.place[:, None] - after.place, axis=-1)
    unlike = np.linalg.norm(before.colour[:, None] - after.colour, axis=-1)
    cost = np.where((apart < far) & (unlike < _ALIKE), apart, 1e6)
    i, j = linear_sum_assignment(cost)
    linked = cost[i, j] < 1e6
    gone = np.delete(before.at_side, i[linked])
    new = np.delete(after.at_side, j[linked])
    return int((~gone).sum() + (~new).sum())


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Returns the share of clips that end with the commonest number of fish."""
    numbers = Counter(int(case.truth.state["shown"][-1]) for case in cases)
    return {"best constant number": numbers.most_common(1)[0][1] / len(cases)}


FAMILY = Family(
    what=f"fish swim on after {CONDITION_FRAMES} frames, and some leave at the sides",
    measures={
        "count error": Measure(
            unit="fish", what="more or fewer than in truth, at most all of them"
        ),
        "changes without cause": Measure(
            unit="fish",
            what="that vanish or appear away from the sides, at most all of them",
            copies=False,
        ),
    },
    case=case,
    score=score,
    chance=chance,
)

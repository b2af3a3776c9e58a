"""The family `treadmill`: a belt carries the foot that is down, and runs on."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.worlds import effects
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench.cases import (
    FIRST_SEED,
    Case,
    Family,
    Measure,
    Score,
    Video,
    candidates,
    nothing_to_ask,
)
from soraxla.evals.worldbench.tracking import background, coloured

CONDITION_FRAMES = 9  # frames, 3 latents
_FAINT = 0.3  # of the true stripes' contrast: a belt that is seen
_SOME = 0.25  # of the true motion: the same direction
_LEAST = 3  # pixels of a shoe's sole
_SHARED = 0.6  # of the smaller of two soles: the same foot
_LATENT = 4  # frames


class Motion(NamedTuple):
    """Pixels from the frame before, NaN if not seen, of the belt and the foot on it."""

    belt: Float[np.ndarray, " t"]
    foot: Float[np.ndarray, " t"]


def case(seed: int, size: Size) -> Case:
    """Returns a walker; every other one walks to the left."""
    side = ("right", "left")[(seed - FIRST_SEED) % 2]
    for candidate in candidates(seed) if size.frames >= CONDITION_FRAMES + 4 else ():
        truth = effects.simulate(candidate, **size._asdict(), scene="treadmill")
        if truth.state["side"] == side:
            return Case(candidate, truth, CONDITION_FRAMES)
    raise nothing_to_ask("effects", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth = case.truth
    seen, step = motion(video, truth), float(truth.state["speed"]) / truth.fps
    belt, foot = (_per_latent(each[CONDITION_FRAMES:]) / step for each in seen)
    slip = np.fmin(np.nan_to_num(np.abs(foot - belt), nan=1.0), 1.0)
    values = {
        "belt direction": float((belt > _SOME).mean()),
        "foot direction": float((foot > _SOME).mean()),
        "slip": float(slip.mean()),
    }
    due = np.full(len(video), step)
    curves = {
        "belt, pixels a frame": (due, seen.belt),
        "foot, pixels a frame": (due, seen.foot),
    }
    return Score(values, curves)


def _per_latent(steps: Float[np.ndarray, " t"]) -> Float[np.ndarray, " n"]:
    """Returns each latent's median step; NaN without one."""
    whole = steps[: len(steps) // _LATENT * _LATENT].reshape(-1, _LATENT)
    middle = np.full(len(whole), np.nan)
    some = ~np.isnan(whole).all(1)
    middle[some] = np.nanmedian(whole[some], axis=1)
    return middle


def motion(video: Video, truth: Episode) -> Motion:
    """Tracks the stripes in the belt's place, and shoes in the true colour on it."""
    return Motion(_belt(video, truth), _foot(video, truth))


def _belt(video: Video, truth: Episode) -> Float[np.ndarray, " t"]:
    """Returns the motion of the belt's stripes, less than half their period.

    It is the change in phase of the Fourier component of the stripes' period.
    """
    left, top, right, bottom = truth.state["strip"].round().astype(int)
    left, top = max(left, 0) + 1, top + 1
    stripe = float(truth.state["stripe"])
    length = int(int((right - 1 - left) / stripe) * stripe)  # whole periods
    wave = np.exp(-2j * np.pi * (np.arange(length) + 0.5) / stripe)

    def stripes(frames: Video) -> np.ndarray:
        rows = frames[:, top : bottom - 1, left : left + length].astype(float)
        line = rows.mean((1, 3))
        return (line - line.mean(1, keepdims=True)) @ wave / length

    found = stripes(video)
    faint = np.abs(found) < _FAINT * np.median(np.abs(stripes(truth.video)))
    turned = np.angle(found[1:] * found[:-1].conj())
    turned = np.where(faint[1:] | faint[:-1], np.nan, turned)
    return np.pad(-turned * stripe / (2 * np.pi), (1, 0), constant_values=np.nan)


def _foot(video: Video, truth: Episode) -> Float[np.ndarray, " t"]:
    """Returns the motion of soles on the belt, and not of one that takes over."""
    belt = float(truth.state["strip"][1])
    unit = min(video.shape[1:3])
    rows = slice(round(belt - 0.045 * unit), round(belt))
    band = truth._replace(video=truth.video[:, rows], ids=truth.ids[:, rows])
    shoes = [str(truth.state["shoes"])]
    [masks] = coloured(video[:, rows], background(band), shoes)
    sole = masks.sum(1)  # (T,W)
    far, steps = round(0.12 * unit), np.full(len(sole), np.nan)
    for t, (before, after) in enumerate(itertools.pairwise(sole), 1):
        if min(before.sum(), after.sum()) >= _LEAST:
            steps[t] = _shift(before, after, far)
    return steps


def _shift(
    before: Int[np.ndarray, " w"], after: Int[np.ndarray, " w"], far: int
) -> float:
    """Returns the pixels that soles moved, at most `far`; NaN if they are unlike.

    It is the peak of the cross-correlation, refined by the middles of what is shared.
    """
    shifts = range(-far, far + 1)
    moved = np.stack([np.roll(before, shift) for shift in shifts])
    best = int((moved @ after).argmax())
    shared = np.minimum(moved[best], after)
    if shared.sum() < _SHARED * min(before.sum(), after.sum()):
        return np.nan
    x, both = np.arange(len(after)), shared > 0
    there, here = after * both, before * np.roll(both, -shifts[best])
    return float(there @ x / there.sum() - here @ x / here.sum())


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Returns the chance levels of a direction."""
    right = np.mean([case.truth.state["side"] == "right" for case in cases])
    same = float(max(right, 1 - right))
    return {"either direction": 0.5, "always the same": same}


FAMILY = Family(
    what=f"a person walks on a treadmill, after {CONDITION_FRAMES} frames",
    measures={
        "belt direction": Measure(
            unit="share", what="of latents whose belt runs the true way", higher=True
        ),
        "foot direction": Measure(
            unit="share",
            what="of latents in which a foot on the belt moves the belt's true way",
            higher=True,
        ),
        "slip": Measure(
            unit="share",
            what="of the true speed, between foot and belt; 1 is more, or no foot",
            copies=False,
        ),
    },
    case=case,
    score=score,
    chance=chance,
)

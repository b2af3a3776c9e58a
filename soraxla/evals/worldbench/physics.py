"""The family `physics`: balls must fall, roll and bounce correctly."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from data_pipelines.worlds import physics
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench.cases import (
    Case,
    Family,
    Measure,
    Score,
    candidates,
    half_diagonal,
    nothing_to_ask,
)
from soraxla.evals.worldbench.tracking import background, track

CONDITION_FRAMES = 9  # frames, 3 latents: they show position, velocity and acceleration
_MOST = 2  # balls
_FLIGHT = 5  # the fewest frames for fitting a parabola
# Pixels by which a path turns back at a bounce, before and after it together: the least
# of a bounce, and the least of one that must be found.
_TURN, _SHARP = 1.0, 2.5
_MOVED = 4.0  # pixels

# The axis of a side, whether the path has its greatest value there, and the side's
# index in `box`.
_SIDES = {
    "left wall": (0, False, 0),
    "ceiling": (1, False, 1),
    "right wall": (0, True, 2),
    "floor": (1, True, 3),
}


def case(seed: int, size: Size) -> Case:
    """Returns one or two balls, of which one moves after the condition frames."""
    for candidate in candidates(seed) if size.frames >= CONDITION_FRAMES + 4 else ():
        truth = physics.simulate(candidate, **size._asdict())
        path = truth.state["position"]
        if (
            path.shape[1] <= _MOST
            and np.ptp(path[CONDITION_FRAMES:], axis=0).max() > _MOVED
        ):
            return Case(candidate, truth, CONDITION_FRAMES)
    raise nothing_to_ask("physics", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, path = case.truth, case.truth.state["position"]
    colours = [str(name) for name in truth.state["colour"]]
    tracked = track(video, background(truth), colours).position
    limit = half_diagonal(video)
    away = np.linalg.norm(tracked - path, axis=-1)[case.condition_frames :]
    values = {
        "position error": float(np.fmin(np.nan_to_num(away, nan=limit), limit).mean()),
        "acceleration error": _acceleration_error(case, tracked),
        "energy error": _energy_error(case, tracked),
        "bounce time error": _bounce_error(case, tracked),
    }
    curves = {
        f"{name} {axis}": (path[:, k, i], tracked[:, k, i])
        for k, name in enumerate(colours)
        for i, axis in enumerate("xy")
    }
    return Score(values, curves)


def _acceleration_error(case: Case, tracked: Float[np.ndarray, "t n 2"]) -> float:
    """Returns |a − g| / |g|, at most 1, of parabolas fitted in true free flight."""
    gravity, fps = float(case.truth.state["gravity"]), case.truth.fps
    errors, weights = [], []
    for k in range(tracked.shape[1]):
        for flight in _flights(case, k):
            seen = flight[~np.isnan(tracked[flight, k, 0])]
            errors.append(1.0)
            weights.append(len(flight))
            if len(seen) >= _FLIGHT:
                bend = np.polyfit(seen / fps, tracked[seen, k], 2)[0] * 2
                error = float(np.linalg.norm(bend - (0.0, gravity))) / gravity
                errors[-1] = min(error, 1.0)
    return float(np.average(errors, weights=weights)) if errors else np.nan


def _flights(case: Case, ball: int) -> list[np.ndarray]:
    """Returns runs of generated frames in which only gravity moves a ball."""
    state = case.truth.state
    gravity = float(state["gravity"])
    if not gravity:
        return []
    change = (
        np.diff(state["velocity"][case.condition_frames :, ball], axis=0)
        * case.truth.fps
    )
    free = np.abs(change - (0.0, gravity)).max(-1) < 1e-3 * gravity
    runs = np.split(
        np.arange(case.condition_frames, len(free) + case.condition_frames + 1),
        _ends(free),
    )
    return [run for run in runs if len(run) >= _FLIGHT]


def _ends(free: Bool[np.ndarray, " t"]) -> np.ndarray:
    """Returns the indices at which steps between frames split a row of frames."""
    return np.flatnonzero(~free) + 1


def _energy_error(case: Case, tracked: Float[np.ndarray, "t n 2"]) -> float:
    """Returns the error of the total energy relative to its start value; at most 1.

    The start is the last condition frame; the error is the median over the second half
    of the generated frames, with speeds from differences between adjacent frames, in
    both alike.
    """
    true = _energies(case.truth, case.truth.state["position"])
    start = float(true[case.condition_frames - 1])
    half = slice((case.condition_frames + len(tracked)) // 2, None)
    energies = _energies(case.truth, tracked)[half]
    if np.isnan(energies).mean() > 0.5:
        return 1.0
    error = abs(np.nanmedian(energies) - np.median(true[half]))
    return float(min(error / start, 1.0))


def _energies(
    truth: Episode, path: Float[np.ndarray, "t n 2"]
) -> Float[np.ndarray, " t"]:
    """Returns mass times (px/s)² of all frames; the ends repeat their neighbours."""
    state = truth.state
    speed = (path[2:] - path[:-2]) * (truth.fps / 2)
    height = state["box"][3] - state["radius"] - path[1:-1, :, 1]
    energy = 0.5 * (speed**2).sum(-1) + state["gravity"] * height
    return np.pad((energy * state["mass"]).sum(-1), 1, mode="edge")


class _Bounces(NamedTuple):
    """The times in seconds of bounces off a side, and which of them are sharp."""

    time: Float[np.ndarray, " k"]
    sharp: Bool[np.ndarray, " k"]


def _bounce_error(case: Case, tracked: Float[np.ndarray, "t n 2"]) -> float:
    """Returns the seconds between matched true and generated bounces off a side.

    A sharp one without a match, true or generated, counts the whole generated time.
    """
    true_path = case.truth.state["position"]
    rest = (len(tracked) - case.condition_frames) / case.truth.fps
    costs, due = [], 0
    for ball in range(tracked.shape[1]):
        for side in _SIDES:
            true, found = (_bounces(case, p, ball, side) for p in (true_path, tracked))
            apart = np.fmin(np.abs(true.time[:, None] - found.time), rest)
            i, j = linear_sum_assignment(apart)
            costs += apart[i, j][true.sharp[i] | found.sharp[j]].tolist()
            unmatched = np.delete(true.sharp, i).sum() + np.delete(found.sharp, j).sum()
            costs += [rest] * int(unmatched)
            due += int(true.sharp.sum())
    return float(np.mean(costs)) if due else np.nan


def _bounces(
    case: Case, path: Float[np.ndarray, "t n 2"], ball: int, side: str
) -> _Bounces:
    """Returns a path's bounces off a side, after the condition frames."""
    state, fps = case.truth.state, case.truth.fps
    axis, greatest, place = _SIDES[side]
    reach = float(state["radius"][ball])
    contact = float(state["box"][place]) + (-reach if greatest else reach)
    along = path[case.condition_frames - 1 :, ball, axis] * (1 if greatest else -1)
    before, at, after = along[:-2], along[1:-1], along[2:]
    bend = 2 * at - before - after
    near = np.abs(at - (contact if greatest else -contact)) < max(reach, 4)
    peak = np.flatnonzero((at >= before) & (at > after) & (bend > _TURN) & near)
    frame = case.condition_frames + peak + (after - before)[peak] / (2 * bend[peak])
    return _Bounces(frame / fps, bend[peak] > _SHARP)


FAMILY = Family(
    what=f"one or two balls fall or roll on after {CONDITION_FRAMES} frames",
    measures={
        "position error": Measure(
            unit="px", what="from the true position; missing: half the diagonal"
        ),
        "acceleration error": Measure(
            unit="share",
            what="of gravity, in true free flight; 1 is no acceleration, or worse",
        ),
        "energy error": Measure(
            unit="share", what="of the energy at the last condition frame, at most 1"
        ),
        "bounce time error": Measure(
            unit="s",
            what="from true to generated bounces off a side; missing: the clip's rest",
        ),
    },
    case=case,
    score=score,
)

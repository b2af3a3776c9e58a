"""Do balls fall, roll and bounce as they must?"""

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

GIVEN = 9  # frames, 3 latents: place, speed and its change can be seen
_MOST = 2  # balls
_FLIGHT = 5  # frames, the fewest through which a parabola is laid
# Pixels by which a path turns back at a bounce, both ways together: to be one, and to
# be one that must not be missed.
_TURN, _SHARP = 1.0, 2.5
_MOVED = 4.0  # pixels

# The axis of a side, whether the path has its greatest value there, and the side's
# place in `box`.
_SIDES = {
    "left wall": (0, False, 0),
    "ceiling": (1, False, 1),
    "right wall": (0, True, 2),
    "floor": (1, True, 3),
}


def case(seed: int, size: Size) -> Case:
    """One or two balls, of which one moves after the given frames."""
    for candidate in candidates(seed) if size.frames >= GIVEN + 4 else ():
        truth = physics.simulate(candidate, **size._asdict())
        path = truth.state["position"]
        if path.shape[1] <= _MOST and np.ptp(path[GIVEN:], axis=0).max() > _MOVED:
            return Case(candidate, truth, GIVEN)
    raise nothing_to_ask("physics", size)


def score(case: Case, video: np.ndarray) -> Score:
    truth, path = case.truth, case.truth.state["position"]
    colours = [str(name) for name in truth.state["colour"]]
    made = track(video, background(truth), colours).position
    limit = half_diagonal(video)
    away = np.linalg.norm(made - path, axis=-1)[case.given :]
    values = {
        "position error": float(np.fmin(np.nan_to_num(away, nan=limit), limit).mean()),
        "acceleration error": _acceleration_error(case, made),
        "energy error": _energy_error(case, made),
        "bounce time error": _bounce_error(case, made),
    }
    curves = {
        f"{name} {axis}": (path[:, k, i], made[:, k, i])
        for k, name in enumerate(colours)
        for i, axis in enumerate("xy")
    }
    return Score(values, curves)


def _acceleration_error(case: Case, made: Float[np.ndarray, "t n 2"]) -> float:
    """|a − g| / |g|, at most 1, of parabolas through what the truth flies freely."""
    gravity, fps = float(case.truth.state["gravity"]), case.truth.fps
    errors, weights = [], []
    for k in range(made.shape[1]):
        for flight in _flights(case, k):
            seen = flight[~np.isnan(made[flight, k, 0])]
            errors.append(1.0)
            weights.append(len(flight))
            if len(seen) >= _FLIGHT:
                bend = np.polyfit(seen / fps, made[seen, k], 2)[0] * 2
                error = float(np.linalg.norm(bend - (0.0, gravity))) / gravity
                errors[-1] = min(error, 1.0)
    return float(np.average(errors, weights=weights)) if errors else np.nan


def _flights(case: Case, ball: int) -> list[np.ndarray]:
    """Runs of generated frames in which gravity alone moves a ball."""
    state = case.truth.state
    gravity = float(state["gravity"])
    if not gravity:
        return []
    change = np.diff(state["velocity"][case.given :, ball], axis=0) * case.truth.fps
    free = np.abs(change - (0.0, gravity)).max(-1) < 1e-3 * gravity
    runs = np.split(np.arange(case.given, len(free) + case.given + 1), _ends(free))
    return [run for run in runs if len(run) >= _FLIGHT]


def _ends(free: Bool[np.ndarray, " t"]) -> np.ndarray:
    """Where steps between frames cut a row of frames."""
    return np.flatnonzero(~free) + 1


def _energy_error(case: Case, made: Float[np.ndarray, "t n 2"]) -> float:
    """Of the total energy, in that at the end of what is given; at most 1.

    The middle value over the second half of the generated frames, with speeds from
    differences between neighbours of a frame, in both alike.
    """
    there = _energies(case.truth, case.truth.state["position"])
    start = float(there[case.given - 1])
    half = slice((case.given + len(made)) // 2, None)
    energies = _energies(case.truth, made)[half]
    if np.isnan(energies).mean() > 0.5:
        return 1.0
    error = abs(np.nanmedian(energies) - np.median(there[half]))
    return float(min(error / start, 1.0))


def _energies(
    truth: Episode, path: Float[np.ndarray, "t n 2"]
) -> Float[np.ndarray, " t"]:
    """Mass times (px/s)² of the frames but the ends, at which the next is repeated."""
    state = truth.state
    speed = (path[2:] - path[:-2]) * (truth.fps / 2)
    height = state["box"][3] - state["radius"] - path[1:-1, :, 1]
    energy = 0.5 * (speed**2).sum(-1) + state["gravity"] * height
    return np.pad((energy * state["mass"]).sum(-1), 1, mode="edge")


class _Bounces(NamedTuple):
    """Seconds of the turns at a side, and which are sharp enough to be missed."""

    time: Float[np.ndarray, " k"]
    sharp: Bool[np.ndarray, " k"]


def _bounce_error(case: Case, made: Float[np.ndarray, "t n 2"]) -> float:
    """Seconds from bounces off a side to those they are paired with, one to one.

    A sharp one without a partner, true or made, costs all the time that was asked for.
    """
    true_path = case.truth.state["position"]
    rest = (len(made) - case.given) / case.truth.fps
    costs, due = [], 0
    for ball in range(made.shape[1]):
        for side in _SIDES:
            there, found = (_bounces(case, p, ball, side) for p in (true_path, made))
            apart = np.fmin(np.abs(there.time[:, None] - found.time), rest)
            i, j = linear_sum_assignment(apart)
            costs += apart[i, j][there.sharp[i] | found.sharp[j]].tolist()
            alone = np.delete(there.sharp, i).sum() + np.delete(found.sharp, j).sum()
            costs += [rest] * int(alone)
            due += int(there.sharp.sum())
    return float(np.mean(costs)) if due else np.nan


def _bounces(
    case: Case, path: Float[np.ndarray, "t n 2"], ball: int, side: str
) -> _Bounces:
    """Where a path turns back at a side, after what is given."""
    state, fps = case.truth.state, case.truth.fps
    axis, greatest, place = _SIDES[side]
    reach = float(state["radius"][ball])
    contact = float(state["box"][place]) + (-reach if greatest else reach)
    along = path[case.given - 1 :, ball, axis] * (1 if greatest else -1)
    before, at, after = along[:-2], along[1:-1], along[2:]
    bend = 2 * at - before - after
    near = np.abs(at - (contact if greatest else -contact)) < max(reach, 4)
    peak = np.flatnonzero((at >= before) & (at > after) & (bend > _TURN) & near)
    frame = case.given + peak + (after - before)[peak] / (2 * bend[peak])
    return _Bounces(frame / fps, bend[peak] > _SHARP)


FAMILY = Family(
    what=f"one or two balls fall or roll on after {GIVEN} given frames",
    measures={
        "position error": Measure(
            unit="px", what="from the true place; not there: half the diagonal"
        ),
        "acceleration error": Measure(
            unit="share",
            what="of gravity, in true free flight; 1 is no acceleration, or worse",
        ),
        "energy error": Measure(
            unit="share", what="of the energy at the end of what is given, at most 1"
        ),
        "bounce time error": Measure(
            unit="s",
            what="from a true bounce off a side to one made; none: the clip's rest",
        ),
    },
    case=case,
    score=score,
)

"""Does the view move as the player's actions say, and does what is dug or built change?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import voxel
from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from data_pipelines.worlds.voxel_actions import parse_actions
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
from soraxla.evals.worldbench.motion import Motion, motion, true_motion

GIVEN = 9  # frames, 3 latents
_TURNS, _WALKS = 5.0, 0.4  # degrees and blocks a latent: it does
_SOME = 0.1  # of the true motion: the same way
# What a tracker may be off in the truth itself, or its clip asks nothing.
_SURE = Motion(np.float64(3.0), np.float64(0.5))
_LEAST = 12  # pixels that an edit changes
_LASTS = 4  # frames after an edit in which it is looked for


class _Edit(NamedTuple):
    """What digs or places, seen by a view that rests meanwhile."""

    before: int
    after: int
    changed: Bool[np.ndarray, "h w"]
    rest: Bool[np.ndarray, "h w"]


def case(seed: int, size: Size) -> Case:
    """The player turns and walks; of every other one, it digs or places, too."""
    edits = (seed - FIRST_SEED) % 2 == 1
    for candidate in candidates(seed) if size.frames >= GIVEN + 8 else ():
        rows = _script(np.random.default_rng((candidate, 0xAC7)), size, edits)
        truth = voxel.simulate(candidate, **size._asdict(), actions=rows)
        if _asks(truth, edits):
            return Case(candidate, truth, GIVEN, ("actions",))
    raise nothing_to_ask("voxel", size)


def _script(
    rng: np.random.Generator, size: Size, edits: bool
) -> Float[np.ndarray, "n a"]:
    """Something else in the given frames than after them, there in any order."""
    side, other = rng.permutation(["left", "right"])
    way = "forward" if rng.random() < 0.6 else "back"
    edit = "dig" if rng.random() < 0.6 else "place"
    made = [
        [(side, rng.uniform(0.3, 0.6))],
        [(way, rng.uniform(0.4, 0.6))],
        [("wait", 0.1), (edit, 0.0), ("wait", 0.3)] if edits else [(other, 0.25)],
    ]
    scenes = [made[k] for k in rng.permutation(len(made))]
    items = [
        f"{name}*{max(1, round(seconds * size.fps))}"
        for scene in scenes
        for name, seconds in scene
    ]
    # One who looks down reaches what is to be dug.
    lead = f"{'down' if edits else 'forward'}*{GIVEN - 1}"
    return parse_actions(",".join([lead, *items]))[: size.frames - 1]


def _asks(truth: Episode, edits: bool) -> bool:
    """Whether all is there that is measured, and the tracker is right of the truth."""
    due, found = true_motion(truth), motion(truth.video, truth)
    off = [
        np.abs(np.subtract(*(_since_given(part) for part in parts))).max()
        for parts in zip(due, found, strict=True)
    ]
    return bool(
        all(np.array(off) <= _SURE)
        and (np.abs(_by_latent(due.turn)) >= _TURNS).any()
        and (np.abs(_by_latent(due.ahead)) >= _WALKS).any()
        and (not edits or _edits(truth))
    )


def _since_given(moved: Float[np.ndarray, " t-1"]) -> Float[np.ndarray, " n"]:
    """Motion up to the end of each latent after those given."""
    return np.cumsum(_by_latent(moved))


def _by_latent(moved: Float[np.ndarray, " t-1"]) -> Float[np.ndarray, " n"]:
    """From the end of each latent to that of the next, after those given."""
    made = moved[GIVEN - 1 :]
    return made[: len(made) // 4 * 4].reshape(-1, 4).sum(1)


def score(case: Case, video: np.ndarray) -> Score:
    truth = case.truth
    due, made = true_motion(truth), motion(video, truth)
    turn, ahead = (
        [_by_latent(part) for part in parts] for parts in zip(due, made, strict=True)
    )
    turns, walks = np.abs(turn[0]) >= _TURNS, np.abs(ahead[0]) >= _WALKS
    headings = np.cumsum(turn, axis=1)
    values = {
        "heading error": float(np.abs(headings[1] - headings[0]).mean()),
        "turn direction": _same_way(*turn, turns),
        "walk error": float(np.abs(ahead[1] - ahead[0])[walks].mean()),
        "walk direction": _same_way(*ahead, walks),
        "edit shown": _edit_shown(truth, video),
    }
    curves = {
        "turned, degrees": _curves(due.turn, made.turn),
        "walked, tenths of a block": _curves(10 * due.ahead, 10 * made.ahead),
    }
    return Score(values, curves)


def _same_way(
    due: Float[np.ndarray, " n"],
    made: Float[np.ndarray, " n"],
    which: Bool[np.ndarray, " n"],
) -> float:
    """The share of some motions that go the way they must."""
    return float((made * np.sign(due) > _SOME * np.abs(due))[which].mean())


def _curves(
    due: Float[np.ndarray, " t-1"], made: Float[np.ndarray, " t-1"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Sums over the frames, 0 at the last given one."""
    paths = [np.cumsum(np.pad(part, (1, 0))) for part in (due, made)]
    return paths[0] - paths[0][GIVEN - 1], paths[1] - paths[1][GIVEN - 1]


def _edits(truth: Episode) -> list[_Edit]:
    """Of generated frames, those that change enough of what is seen."""
    frames = [int(frame) for frame in truth.state["edits"][:, 0]]
    rests = np.isclose(truth.camera[1:], truth.camera[:-1], atol=1e-5).all((1, 2))
    found = []
    for k, frame in enumerate(frames):
        end = min([*frames[k + 1 :], frame + _LASTS + 1, len(truth.video)])
        if frame <= GIVEN or not rests[frame - 1]:
            continue
        still = rests[frame : end - 1]
        after = frame + (int(np.argmin(still)) if not still.all() else len(still))
        ids, depth = truth.ids[[frame - 1, frame]], truth.depth[[frame - 1, frame]]
        same = (ids[0] == ids[1]) & np.isclose(*depth, rtol=1e-3)
        rest = same & (ids[0] != vb.AIR) & (ids[0] != vb.WATER)
        if min((~same).sum(), rest.sum()) >= _LEAST:
            found.append(_Edit(frame - 1, after, ~same, rest))
    return found


def _edit_shown(truth: Episode, video: Video) -> float:
    """How much more than the rest changes what is dug or placed; the truth's is 1."""
    shares = [
        float(np.clip(_stands_out(video, e) / _stands_out(truth.video, e), 0, 1))
        for e in _edits(truth)
    ]
    return float(np.mean(shares)) if shares else np.nan


def _stands_out(video: Video, edit: _Edit) -> float:
    """Of 255."""
    change = np.abs(video[edit.after].astype(float) - video[edit.before]).mean(-1)
    return float(change[edit.changed].mean() - change[edit.rest].mean())


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Shares of turns that guessing gets right."""
    turns = np.concatenate([_by_latent(true_motion(c.truth).turn) for c in cases])
    right = float((turns[np.abs(turns) >= _TURNS] > 0).mean())
    return {"either side at random": 0.5, "always one side": max(right, 1 - right)}


FAMILY = Family(
    what=f"the player turns, walks, digs or places after {GIVEN} given frames",
    measures={
        "heading error": Measure(
            unit="degrees", what="from the true turn since the last given frame"
        ),
        "turn direction": Measure(
            unit="share", what="of turning latents that turn the right way", higher=True
        ),
        "walk error": Measure(
            unit="blocks", what="a latent in which the player walks; 1.1 at full pace"
        ),
        "walk direction": Measure(
            unit="share", what="of walking latents that go the right way", higher=True
        ),
        "edit shown": Measure(
            unit="share",
            what="of the change of what is dug or placed, beyond that of the rest",
            higher=True,
        ),
    },
    case=case,
    score=score,
    chance=chance,
)

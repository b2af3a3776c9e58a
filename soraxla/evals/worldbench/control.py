"""The family `control`: the view must follow the player's actions and show edits."""

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

CONDITION_FRAMES = 9  # frames, 3 latents
_TURNS, _WALKS = 5.0, 0.4  # degrees and blocks per latent of a turn and a walk
_SOME = 0.1  # of the true motion: the same direction
# The tracker's largest error on the truth, in degrees and blocks.
_SURE = 3.0, 0.4
_LEAST = 12  # pixels that an edit changes
_LASTS = 4  # frames before and after an edit that are compared


class Edit(NamedTuple):
    """A digging or placing, seen by a view that is still between two frames."""

    before: int
    after: int
    changed: Bool[np.ndarray, "h w"]
    rest: Bool[np.ndarray, "h w"]


def case(seed: int, size: Size) -> Case:
    """Returns a player who turns and walks; every other one also digs or places."""
    edited = (seed - FIRST_SEED) % 2 == 1
    for candidate in candidates(seed) if size.frames >= CONDITION_FRAMES + 8 else ():
        rows = _script(np.random.default_rng((candidate, 0xAC7)), size, edited)
        truth = voxel.simulate(candidate, **size._asdict(), actions=rows)
        if _asks(truth, edited):
            return Case(candidate, truth, CONDITION_FRAMES, ("actions",))
    raise nothing_to_ask("voxel", size)


def _script(
    rng: np.random.Generator, size: Size, edited: bool
) -> Float[np.ndarray, "n a"]:
    """Returns actions that differ between the condition frames and later frames."""
    side, other = rng.permutation(["left", "right"])
    walk = "forward" if rng.random() < 0.6 else "back"
    edit = "dig" if rng.random() < 0.6 else "place"
    parts = [
        [(side, rng.uniform(0.3, 0.6))],
        [(walk, rng.uniform(0.4, 0.6))],
        [("wait", 0.3), (edit, 0.0), ("wait", 0.3)] if edited else [(other, 0.25)],
    ]
    scenes = [parts[k] for k in rng.permutation(len(parts))]
    items = [
        f"{name}*{max(1, round(seconds * size.fps))}"
        for scene in scenes
        for name, seconds in scene
    ]
    # A player who looks down reaches a block to dig.
    lead = f"{'down' if edited else 'forward'}*{CONDITION_FRAMES - 1}"
    return parse_actions(lead, *items)[: size.frames - 1]


def _asks(truth: Episode, edited: bool) -> bool:
    """Returns whether the truth has the measured events, and the tracker finds them."""
    due, found = (
        true_motion(truth, CONDITION_FRAMES),
        motion(truth.video, truth, CONDITION_FRAMES),
    )
    off = [
        np.abs(np.cumsum(there) - np.cumsum(seen)).max()
        for there, seen in zip(due, found, strict=True)
    ]
    if off[0] > _SURE[0] or off[1] > _SURE[1]:
        return False
    return bool(edits(truth) if edited else _turns(due).any() and _walks(due).any())


def _turns(due: Motion) -> Bool[np.ndarray, " n"]:
    return np.abs(due.turn) >= _TURNS


def _walks(due: Motion) -> Bool[np.ndarray, " n"]:
    return np.abs(due.ahead) >= _WALKS


def score(case: Case, video: np.ndarray) -> Score:
    truth = case.truth
    due, generated = (
        true_motion(truth, CONDITION_FRAMES),
        motion(video, truth, CONDITION_FRAMES),
    )
    turns, walks = _turns(due), _walks(due)
    off = np.abs(generated.ahead - due.ahead)[walks]
    values = {
        "heading error": float(np.abs(np.cumsum(generated.turn - due.turn)).mean()),
        "turn direction": _same_way(due.turn[turns], generated.turn[turns]),
        "walk error": float(off.mean()) if walks.any() else np.nan,
        "walk direction": _same_way(due.ahead[walks], generated.ahead[walks]),
        "edit shown": _edit_shown(truth, video),
    }
    curves = {
        "turned, degrees": (due.turn, generated.turn),
        "walked, tenths of a block": (10 * due.ahead, 10 * generated.ahead),
    }
    frames = len(video)
    return Score(
        values,
        {
            name: (_curve(there, frames), _curve(seen, frames))
            for name, (there, seen) in curves.items()
        },
    )


def _same_way(
    due: Float[np.ndarray, " n"], generated: Float[np.ndarray, " n"]
) -> float:
    """Returns the share with the right direction; NaN if there is none."""
    same = generated * np.sign(due) > _SOME * np.abs(due)
    return float(same.mean()) if len(due) else np.nan


def _curve(moved: Float[np.ndarray, " n"], frames: int) -> Float[np.ndarray, " t"]:
    """Returns the sum up to each frame, 0 at the last condition frame.

    It is known at the ends of latents, and NaN after the last of them.
    """
    ends = CONDITION_FRAMES - 1 + 4 * np.arange(len(moved) + 1)
    sums = np.cumsum(np.pad(moved, (1, 0)))
    return np.interp(np.arange(frames), ends, sums, right=np.nan)


def edits(truth: Episode) -> list[Edit]:
    """Returns the edits in generated frames that change enough pixels."""
    frames = [int(frame) for frame in truth.state["edits"][:, 0]]
    same = np.isclose(truth.camera[1:], truth.camera[:-1], atol=1e-5).all((1, 2))
    moves = np.cumsum(np.pad(~same, (1, 0)))
    found = []
    for k, frame in enumerate(frames):
        first = max([CONDITION_FRAMES, *frames[:k], frame - _LASTS])
        last = min([len(moves) - 1, *(n - 1 for n in frames[k + 1 :]), frame + _LASTS])
        rests = np.flatnonzero(moves == moves[frame]).clip(first, last)
        before, after = int(rests[0]), int(rests[-1])
        if not before < frame <= after:
            continue
        ids, depth = truth.ids[[before, after]], truth.depth[[before, after]]
        changed = (ids[0] != ids[1]) | ~np.isclose(*depth, rtol=1e-3)
        rest = ~changed & (ids[0] != vb.AIR) & (ids[0] != vb.WATER)
        if min(changed.sum(), rest.sum()) >= _LEAST:
            found.append(Edit(before, after, changed, rest))
    return found


def _edit_shown(truth: Episode, video: Video) -> float:
    """Returns the generated share of the true change, between 0 and 1 for each edit."""
    shares = []
    for edit in edits(truth):
        due, generated = _change(truth.video, edit), _change(video, edit)
        shares.append(float(np.clip((due * generated).sum() / (due * due).sum(), 0, 1)))
    return float(np.mean(shares)) if shares else np.nan


def _change(video: Video, edit: Edit) -> Float[np.ndarray, "n 3"]:
    """Returns the change of an edit's pixels, minus that of the rest."""
    change = video[edit.after].astype(float) - video[edit.before]
    return change[edit.changed] - change[edit.rest].mean(0)


def chance(cases: Sequence[Case]) -> dict[str, float]:
    """Returns the chance levels of turn directions."""
    turns = np.concatenate([true_motion(c.truth, CONDITION_FRAMES).turn for c in cases])
    turns = turns[np.abs(turns) >= _TURNS]
    right = int((turns > 0).sum())
    commoner = max(right, len(turns) - right) / max(len(turns), 1)
    return {"turning to either side": 0.5, "always to the same": commoner}


FAMILY = Family(
    what=f"the player turns, walks, digs or places after {CONDITION_FRAMES} frames",
    measures={
        "heading error": Measure(
            unit="degrees", what="from the true turn since the last condition frame"
        ),
        "turn direction": Measure(
            unit="share", what="of turning latents in the right direction", higher=True
        ),
        "walk error": Measure(
            unit="blocks", what="per latent of walking; 1.1 at full speed"
        ),
        "walk direction": Measure(
            unit="share", what="of walking latents in the right direction", higher=True
        ),
        "edit shown": Measure(
            unit="share",
            what="of the true change by digging or placing, minus that of the rest",
            higher=True,
        ),
    },
    case=case,
    score=score,
    chance=chance,
)

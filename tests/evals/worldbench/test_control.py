"""Motion is read from pixels as the simulator has it, and edits where they are."""

import functools

import numpy as np
import pytest

from data_pipelines.worlds import voxel
from data_pipelines.worlds.sizes import Size
from data_pipelines.worlds.voxel_actions import ACTIONS, parse_actions
from soraxla.evals.worldbench import control
from soraxla.evals.worldbench.cases import FIRST_SEED, still, supported, unsupported
from soraxla.evals.worldbench.motion import motion, true_motion
from soraxla.packing.controls import Controls
from tests.marks import slow

SIZE = Size(width=64, height=64, frames=25, fps=16.0)


@functools.cache
def case_of(place):
    return control.case(FIRST_SEED + place, SIZE)


@pytest.fixture(
    scope="module",
    params=[pytest.param(0, marks=pytest.mark.slow), 1],
    ids=["moves", "edits"],
)
def case(request):
    return case_of(request.param)


@pytest.fixture(scope="module")
def right(case):
    """The scores of the truth."""
    return control.score(case, case.truth.video).values


@pytest.fixture(scope="module")
def edited():
    return case_of(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "turn", "ahead"),
    [
        ("right*4 left*8 forward*4", (22.5, -22.5, -22.5, 0), (0, 0, 0, 1.075)),
        *slow(("forward*4 left*4 right*8", (0, -22.5, 22.5, 22.5), (1.075, 0, 0, 0))),
    ],
)
def test_motion_is_what_the_player_did(script, turn, ahead):
    actions = parse_actions(*script.split())
    size = Size(64, 64, 17, 16.0)
    truth = voxel.simulate(3_000_000_005, **size._asdict(), actions=actions)
    due, seen = true_motion(truth, 1), motion(truth.video, truth, 1)
    np.testing.assert_allclose(due.turn, turn, atol=1e-3)
    np.testing.assert_allclose(due.ahead, ahead, atol=1e-3)
    np.testing.assert_allclose(seen.turn, turn, atol=1)
    np.testing.assert_allclose(seen.ahead, ahead, atol=0.25)


@pytest.mark.slow
def test_where_nothing_can_be_followed_nothing_moves(case):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, case.truth.video.shape, dtype=np.uint8)
    for video in (noise, np.full_like(noise, 128)):
        seen = motion(video, case.truth, case.condition_frames)
        assert not np.any(seen.turn) and not np.any(seen.ahead)


@pytest.mark.slow
def test_the_truth_moves_as_it_must(case, right):
    assert right["heading error"] < 3 and not right["walk error"] > 0.4
    for name in ("turn direction", "walk direction", "edit shown"):
        assert right[name] == 1 or np.isnan(right[name])
    again = control.score(case, case.truth.video).values
    np.testing.assert_array_equal(list(right.values()), list(again.values()))


@pytest.mark.slow
def test_a_still_view_does_nothing_of_it(case, right):
    wrong = control.score(case, still(case)).values
    for name in ("turn direction", "walk direction", "edit shown"):
        assert wrong[name] == 0 or np.isnan(wrong[name])
    assert np.isnan(right["turn direction"]) or (
        wrong["heading error"] > 2 * right["heading error"] + 1
    )


@pytest.mark.slow
def test_a_mirrored_view_turns_to_the_other_side():
    case = control.case(FIRST_SEED, SIZE)
    wrong = control.score(case, case.truth.video[:, :, ::-1]).values
    assert wrong["turn direction"] == 0 and wrong["heading error"] > 5


@pytest.mark.slow
def test_an_edit_that_is_undone_is_not_shown(edited):
    """The rest changes as in truth; what was dug or placed looks as before."""
    (edit, *_) = control.edits(edited.truth)
    video = edited.truth.video.copy()
    video[edit.before + 1 :, edit.changed] = video[edit.before, edit.changed]
    assert control.score(edited, video).values["edit shown"] < 0.1


@pytest.mark.slow
def test_a_picture_that_changes_as_a_whole_shows_no_edit(edited):
    (edit, *_) = control.edits(edited.truth)
    before, after = edited.truth.video[[edit.before, edit.after]].astype(int)
    way = np.sign((after - before)[edit.changed].mean())
    video = edited.truth.video.copy()
    video[edit.after] = (before + 30 * way).clip(0, 255)
    assert control.score(edited, video).values["edit shown"] < 0.05


# --- Inputs of a model ------------------------------------------------------------


@pytest.mark.slow
def test_a_model_is_told_what_it_is_steered_by(case):
    ask, both = case.ask, Controls(actions=ACTIONS, camera=True)
    assert supported(ask, both).actions is case.truth.actions
    assert supported(ask, both).camera is None  # the camera would tell the answer
    assert unsupported(ask, both) == ()
    for other in (Controls(), Controls(actions=("forward", "jump"), camera=True)):
        assert supported(ask, other).actions is None
        assert unsupported(ask, other) == ("actions",)


@pytest.mark.slow
def test_actions_of_none_are_not_missed(case):
    """A free camera's actions are zeros: without them nothing is unsaid."""
    ask = case.ask._replace(
        actions=np.zeros_like(case.truth.actions), camera=case.truth.camera
    )
    assert unsupported(ask, Controls()) == ("camera",)
    assert unsupported(ask, Controls(camera=True)) == ()
    assert supported(ask, Controls(camera=True)).camera is case.truth.camera

"""Two views of one scene agree under its camera, and under no other."""

import numpy as np
import pytest

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench import consistency
from soraxla.evals.worldbench.cases import FIRST_SEED, still
from soraxla.evals.worldbench.matching import contrast, displacement, reach
from soraxla.evals.worldbench.views import look_up, shared

SIZE = Size(width=64, height=64, frames=25, fps=16.0)


@pytest.fixture(scope="module")
def case():
    return consistency.case(FIRST_SEED, SIZE)


@pytest.fixture(scope="module")
def right(case):
    return consistency.score(case, case.truth.video).values


def given_then(case, made):
    """The given frames, then those of another clip."""
    given = case.truth.video[: case.condition_frames]
    return np.concatenate([given, made[case.condition_frames :]])


def test_the_truth_agrees_with_itself(case, right):
    assert right["scene displacement"] < 0.7 and right["displacement"] < 0.7  # pixels
    assert right["scene error"] < 20 and right["reprojection error"] < 0.45
    assert right == consistency.score(case, case.truth.video).values


def test_what_stands_still_or_is_blank_is_no_scene(case, right):
    frozen = consistency.score(case, still(case)).values
    blank = given_then(case, np.full_like(case.truth.video, 128))
    blank = consistency.score(case, blank).values
    for wrong in (frozen, blank):
        assert wrong["reprojection error"] == 1
        for name in ("scene error", "scene displacement", "displacement"):
            assert wrong[name] > 2 * right[name] + 1, name
    assert blank["displacement"] == reach(SIZE.height)


@pytest.mark.parametrize("change", ["moved", "mirrored", "of half the pace"])
def test_another_clip_is_worse(case, right, change):
    truth, frames = case.truth.video, np.arange(SIZE.frames)
    slow = np.minimum(frames, (frames + case.condition_frames) // 2)
    video = {
        "moved": np.roll(truth, 6, axis=2),
        "mirrored": truth[:, :, ::-1],
        "of half the pace": truth[slow],
    }[change]
    wrong = consistency.score(case, given_then(case, video)).values
    assert wrong["scene displacement"] > 2 * right["scene displacement"] + 1
    assert wrong["scene error"] > 1.5 * right["scene error"]


def test_another_camera_is_worse(case, right):
    """One that turns by a third of a degree more a frame."""
    angle = np.radians(np.arange(SIZE.frames) / 3)
    turn = np.tile(np.eye(4), (SIZE.frames, 1, 1))
    turn[:, 0, 0] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 0, 2], turn[:, 2, 0] = np.sin(angle), -np.sin(angle)
    camera = (case.truth.camera @ turn).astype(np.float32)
    other = case._replace(truth=case.truth._replace(camera=camera))
    wrong = consistency.score(other, case.truth.video).values
    for name in ("scene error", "scene displacement", "displacement"):
        assert wrong[name] > 1.5 * right[name], name


# --- What it is made of -----------------------------------------------------------


def test_a_view_shares_all_that_stands_with_itself(case):
    view = shared(case.truth, 0, 0)
    assert view.distance[view.both].max() < 1e-3
    depth, ids = case.truth.depth[0], case.truth.ids[0]
    stands = (depth > 0) & (depth < 40) & (ids != vb.WATER)
    assert not view.both[(depth == 0) | (ids == vb.WATER)].any()
    assert view.both[stands].mean() > 0.6  # edges are left out


def test_what_something_nearer_hides_is_not_shared(case):
    """Two looks from one place; in the first a wall stands before the left half."""
    truth = case.truth
    camera, ids, depth = truth.camera.copy(), truth.ids.copy(), truth.depth.copy()
    camera[1], ids[1], depth[1] = camera[0], ids[0], depth[0]
    depth[0, :, :32] /= 2
    view = shared(truth._replace(camera=camera, ids=ids, depth=depth), 0, 1)
    assert not view.both[:, :32].any() and view.both[:, 33:].any()


def test_pictures_are_linear_between_centres_and_nothing_outside():
    picture = np.arange(12, dtype=float).reshape(1, 3, 4, 1)
    x, y = np.array([[[0.5, 2.0, 3.9, 4.0]]]), np.array([[[0.5, 1.0, 2.9, 1.0]]])
    found = look_up(picture, x, y)[0, 0, :, 0]
    np.testing.assert_allclose(found, [0, 3.5, 11, np.nan])


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (-1, 3)])
def test_blocks_are_found_where_they_went(shift):
    rng = np.random.default_rng(0)
    picture = rng.uniform(0, 255, (64, 64, 3))
    moved = np.roll(picture, shift, axis=(0, 1))
    there = np.ones((64, 64), bool)
    inner = displacement(picture, moved, there)[1:-1, 1:-1]
    np.testing.assert_allclose(inner, np.hypot(*shift), atol=0.1)
    assert (displacement(picture, rng.permutation(moved), there) == reach(64)).all()
    assert (contrast(picture, there) > 20).all()
    assert np.isnan(contrast(picture, ~there)).all()

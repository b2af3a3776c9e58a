"""Rows that steer: the controls of each latent frame, and texts that are no action."""

import numpy as np
import pytest

from soraxla.packing.controls import Controls, of_tokens, parse_actions

NAMES = ("forward", "left", "dig")
BOTH = Controls(actions=NAMES, camera=True)


def actions(frames=9):
    return np.eye(frames, 3, dtype=np.float32)


def camera(frames=9):
    """Turns about y by a tenth a frame, and steps along x."""
    poses = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    for k, pose in enumerate(poses):
        c, s = np.cos(0.1 * k), np.sin(0.1 * k)
        pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        pose[0, 3] = k
    return poses


def test_a_latent_frame_is_told_what_its_four_frames_do():
    rows = BOTH.rows(3, actions(), camera())
    assert rows.shape == (3, BOTH.width) == (3, 1 + 12 + 1 + 48)
    assert (rows[:, [0, 13]] == 1).all()
    told = rows[:, 1:13].reshape(3, 4, 3)
    np.testing.assert_array_equal(told[0], [[0] * 3] * 3 + [[1, 0, 0]])  # one frame
    np.testing.assert_array_equal(told[1, :2], [[0, 1, 0], [0, 0, 1]])
    assert not told[2].any()


def test_poses_are_relative_to_the_windows_first_frame():
    whole, window = camera(), BOTH.rows(2, None, camera(), start=1)
    poses = window[:, 14:].reshape(2, 4, 3, 4)
    np.testing.assert_allclose(poses[0, -1], np.eye(4)[:3], atol=1e-6)  # frame 4
    expected = (np.linalg.inv(whole[4]) @ whole[8])[:3]
    np.testing.assert_allclose(poses[1, -1], expected, atol=1e-6)
    assert not window[:, :13].any()
    moved = camera()
    moved[:, 2, 3] += 7.0  # where the world's origin is does not matter
    np.testing.assert_allclose(
        BOTH.rows(2, None, moved, start=1), window, rtol=0, atol=1e-5
    )


def test_what_is_not_given_says_nothing_and_no_controls_have_no_width():
    assert not BOTH.rows(3, None, None).any()
    assert Controls().rows(3, actions(), camera()).shape == (3, 0)


@pytest.mark.parametrize(("step", "told"), [(1, [0, 0, 1, 1, 2, 2]), (2, [0, 0, 2, 2])])
def test_tokens_are_told_what_their_latent_frame_is(step, told):
    """There are two tokens a step of time, and three appended to the clip."""
    rows = 1.0 + np.arange(3 + (step == 2), dtype=np.float32)[:, None]
    out = of_tokens(rows, own=len(told), tokens=len(told) + 3, step=step)
    assert out[:, 0].tolist() == [*(1.0 + number for number in told), 0.0, 0.0, 0.0]


def test_actions_are_parsed():
    rows = parse_actions(["forward*2", "left + dig", "wait*2"], NAMES)
    expected = [[1, 0, 0]] * 2 + [[0, 1, 1]] + [[0, 0, 0]] * 2
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forwards*2", r"'forwards' is no action.*forward"),
        ("left*0", r"count '0', expected whole frames"),
        ("left*x", r"count 'x'"),
        ("", r"'' is no action"),
    ],
)
def test_what_is_no_action_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_actions([text], NAMES)

"""Clips of the land of blocks: pure, edited where the player looked, told truly."""

import re

import numpy as np
import pytest

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.voxel import film, simulate
from data_pipelines.worlds.voxel_actions import ACTIONS, parse_actions
from data_pipelines.worlds.voxel_terrain import SIZE
from tests.marks import slow

SIZES = {"width": 48, "height": 48, "fps": 10.0}
CLIP = {**SIZES, "frames": 17}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("world", [film, *slow(simulate)])
def test_a_clip_is_a_function_of_its_arguments(world):
    size = {**CLIP, "frames": 5}
    first, again = world(7, **size), world(7, **size)
    assert first.caption == again.caption
    for name in ("video", "actions", "camera", "depth", "ids"):
        assert same(getattr(first, name), getattr(again, name)), name
    assert all(same(first.state[k], again.state[k]) for k in first.state)
    assert first.state.keys() == again.state.keys()
    assert not same(first.video, world(8, **size).video)


@pytest.mark.parametrize("seed", slow(0, 1, 2))
def test_a_drawn_script_can_be_given_again(seed):
    drawn = simulate(seed, **CLIP)
    given = simulate(seed, **CLIP, actions=drawn.actions[1:])
    assert same(drawn.video, given.video) and same(drawn.actions, given.actions)
    assert not drawn.actions[0].any() and drawn.actions.any()


@pytest.mark.slow
def test_a_clip_begins_the_same_whatever_is_done_later():
    """A frame is a function of what was done before it."""
    long = simulate(3, **CLIP, actions=parse_actions("forward*8", "left*8"))
    short = simulate(3, **{**CLIP, "frames": 9}, actions=parse_actions("forward*8"))
    assert same(long.video[:9], short.video)


@pytest.mark.parametrize("seed", [0, 1, *slow(2, 3, 4, 5)])
def test_digging_takes_the_block_in_the_middle_and_it_stays_away(seed):
    script = parse_actions("down*8", "dig", "wait", "left*5", "wait", "right*5", "wait")
    episode = simulate(seed, **SIZES, frames=23, actions=script)
    edits = episode.state["edits"]
    assert len(edits) == 1, "the ground is in reach of who looks down 48 degrees"
    frame, *cell, block = edits[0].tolist()
    assert (frame, block) == (9, vb.AIR)
    near = np.s_[23:25, 23:25]  # around the middle, which is between four pixels
    before, after = episode.depth[8][near], episode.depth[9][near]
    pose = episode.camera[8].astype(np.float64)
    middle = pose[:3, 3] + pose[:3, 2] * (before.min() + 0.02)
    assert np.abs((middle - np.add(cell, 0.5) + 64) % SIZE - 64).max() < 0.56
    assert episode.state["grid"][tuple(cell)] == episode.ids[8][near].min()
    assert (after > before + 0.05).all()
    # Looking away and back shows what was there when it was left.
    np.testing.assert_allclose(episode.depth[-1], episode.depth[9], atol=1e-3)
    assert "block of" in episode.caption


def test_placing_puts_a_block_against_what_is_in_the_middle():
    episode = simulate(0, **CLIP, actions=parse_actions("down*6", "place", "wait"))
    (edit,) = episode.state["edits"].tolist()
    frame, *cell, block = edit
    assert frame == 7 and episode.state["block"][block - 1] in episode.caption
    assert episode.state["grid"][tuple(cell)] == vb.AIR
    assert (episode.ids[7][23:25, 23:25] == block).all()
    assert not (episode.ids[6] == block).any()
    depth = [episode.depth[i][23:25, 23:25].mean() for i in (6, 7)]
    assert depth[1] < depth[0]


def test_nothing_is_placed_into_the_player_nor_dug_out_of_reach():
    at_the_feet = parse_actions("down*14", "place*2")
    assert len(simulate(0, **CLIP, actions=at_the_feet).state["edits"]) == 0
    at_the_sky = parse_actions("up*14", "dig", "place")
    assert len(simulate(0, **CLIP, actions=at_the_sky).state["edits"]) == 0


def test_the_state_tells_the_pose_of_the_camera():
    episode = simulate(2, **CLIP)
    np.testing.assert_array_equal(episode.camera[:, :3, 3], episode.state["position"])
    pitch = np.degrees(np.arcsin(episode.camera[:, 1, 2]))
    np.testing.assert_allclose(pitch, episode.state["pitch"], atol=1e-3)
    for pose in episode.camera:
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", [*range(3), *slow(*range(3, 12))])
def test_a_free_camera_passes_through_nothing(seed):
    episode = film(seed, **CLIP)
    assert not episode.actions.any() and episode.actions.shape[1] == len(ACTIONS)
    assert episode.depth[episode.depth > 0].min() > 0.9
    steps = np.linalg.norm(np.diff(episode.camera[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 1.1


@pytest.mark.slow
def test_captions_vary_and_tell_what_is_there():
    captions = []
    for seed in range(16):
        episode = film(seed, **{**CLIP, "frames": 2})
        wet = (episode.ids == vb.WATER).mean()
        if wet > 0.03 or wet < 0.01:
            assert ("water" in episode.caption) == (wet > 0.03), episode.caption
        captions.append(episode.caption)
    assert len({tuple(caption.split()[:3]) for caption in captions}) > 7
    assert all(c == " ".join(c.split()) and c.endswith(".") for c in captions)


def test_what_is_done_is_told_in_order():
    walk = simulate(
        0, **CLIP, actions=parse_actions("down*6", "dig", "wait", "up*6")
    ).caption
    order = r"(looks down|lowers).*a block of .*(looks up|raises)"
    assert re.search(order, walk), walk
    still = simulate(0, **CLIP, actions=parse_actions("wait")).caption
    assert "stands still" in still or "waits" in still


def test_wrong_rows_of_actions_are_refused():
    with pytest.raises(
        ValueError, match="actions are 20 rows of 11, expected at most 16"
    ):
        simulate(0, **CLIP, actions=parse_actions("forward*20"))
    with pytest.raises(ValueError, match=r"2 rows of 3.*forward, back"):
        simulate(0, **CLIP, actions=np.zeros((2, 3), np.float32))

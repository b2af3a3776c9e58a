"""Effects last: the state says what is shown, and captions say what happens."""

import functools

import numpy as np
import pytest

from data_pipelines.worlds.effects import SCENES, simulate
from data_pipelines.worlds.words import NUMBERS
from soraxla.evals.worldbench.patches import areas

SIZE = {"width": 48, "height": 48, "frames": 17, "fps": 12.0}


@functools.cache
def clips(scene, count, failed=False):
    return [simulate(s, **SIZE, scene=scene, failed=failed) for s in range(count)]


def test_all_scenes_are_drawn():
    small = {"width": 32, "height": 32, "frames": 1, "fps": 12.0}
    drawn = [str(simulate(seed, **small).state["scene"]) for seed in range(60)]
    assert {*drawn} == {*SCENES}


def test_a_chosen_scene_is_the_clip_that_is_drawn():
    clip = simulate(5, **SIZE)
    again = simulate(5, **SIZE, scene=str(clip.state["scene"]))
    np.testing.assert_array_equal(clip.video, again.video)
    assert clip.caption == again.caption


@pytest.mark.parametrize("scene", SCENES)
def test_a_failure_changes_the_clip_only_from_some_frame_on(scene):
    for clip, failed in zip(clips(scene, 4), clips(scene, 4, True), strict=True):
        same = (clip.video == failed.video).all((1, 2, 3))
        assert same[: SIZE["frames"] // 3].all() and not same.all()
        assert clip.caption == failed.caption


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scene": "candel"}, "unknown scene 'candel', expected one of candle"),
        ({"failed": True, "frames": 1}, "a picture shows no failure"),
    ],
)
def test_unknown_wishes_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        simulate(0, **(SIZE | options))


def test_a_flame_that_was_blown_out_stays_out_and_smokes():
    blown = 0
    for clip in clips("candle", 12):
        lit, out = clip.state["lit"], clip.state["out_time"]
        assert ((clip.ids == 2).any((1, 2)) == lit).all()
        assert lit[0] and (np.diff(lit.astype(int)) <= 0).all()
        assert lit.all() == np.isnan(out) == (clip.state["side"] == "")
        smoke = (clip.ids == 3).any((1, 2))
        assert not smoke[lit].any() and smoke[-1] != lit[-1]
        out_words = any(word in clip.caption for word in ("blown", "blows", "puts out"))
        assert lit.all() == (not out_words or "nobody" in clip.caption), clip.caption
        blown += not lit.all()
        assert lit.all() or lit.argmin() == round(float(out) * clip.fps)
    assert 3 <= blown <= 9


def test_pieces_add_up_to_the_thing_that_broke():
    large = {"width": 112, "height": 112, "frames": 9, "fps": 8.0}
    for seed in range(8):
        clip = simulate(seed, **large, scene="glass")
        count, area = int(clip.state["pieces"]), (clip.ids > 0).sum((1, 2))
        broken = np.isnan(clip.state["position"][:, 0])
        assert not broken[0] and broken[-3:].all()
        assert abs(area[-1] / area[0] - 1) < 0.1  # straight edges are rounded
        assert (areas(clip.ids[-1] > 0) > 5).sum() == count  # a tip may be apart
        assert {*np.unique(clip.ids[-1])} == {*range(count + 1)}
        assert (clip.ids[-1] == clip.ids[-3]).all()
        assert f"{NUMBERS[count]} pieces" in clip.caption
        assert f"{clip.state['colour']} {clip.state['thing']}" in clip.caption


def test_a_foot_that_is_down_moves_as_the_belt_does():
    sides = set()
    for clip in clips("treadmill", 8):
        state = clip.state
        both = state["down"][1:] & state["down"][:-1]
        same_step = np.abs(np.diff(state["feet"][..., 0], axis=0)) < 6
        moved = np.diff(state["feet"][..., 0], axis=0)[both & same_step]
        step = float(state["speed"]) / clip.fps
        np.testing.assert_allclose(moved, step, atol=1e-6)
        np.testing.assert_allclose(np.diff(state["belt"]), step)
        assert abs(step) < 0.36 * state["stripe"]
        assert (step > 0) == (state["side"] == "left")
        assert state["down"].sum(1).min() == 1
        sides.add(str(state["side"]))
    assert sides == {"left", "right"}


def test_fish_leave_and_enter_at_the_sides():
    fates = set()
    for clip in clips("fish", 16):
        state, width = clip.state, clip.video.shape[2]
        assert (state["shown"] == (state["visible"] > 0.5).sum(1)).all()
        for k, fate in enumerate(state["fate"]):
            visible, x = state["visible"][:, k], state["position"][:, k, 0]
            pixels = (clip.ids == k + 1).sum((1, 2))
            assert (pixels[visible == 1] > 0).all() and not pixels[visible == 0].any()
            assert (visible[0] == 1) == (fate != "enters")
            assert (visible[-1] == 1) == (fate != "leaves")
            right = x[-1] > x[0]
            assert right == (state["direction"][k] == "right")
            assert fate == "stays" or (visible == 0).any()
            assert fate != "leaves" or (x[-1] > width) == right
            fates.add(str(fate))
        leaving = (state["fate"] == "leaves").sum()
        assert clip.caption.count("out of the picture") == leaving
    assert fates == {"stays", "leaves", "enters"}

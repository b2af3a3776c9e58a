"""Conditions are encoded by themselves, laid at their places, and marked."""

import numpy as np
import pytest

from data_pipelines.condition_layout import lay_out
from data_pipelines.encode_conditions import condition_clips, random_hole
from soraxla.core.types import LatentGrid
from soraxla.packing.bin_packing import Visit
from soraxla.packing.conditioning import greyed
from soraxla.packing.patchify import patchify, positions

CELL, PATCH, FPS, ROPE_FPS = 16, (1, 2, 2), 12.0, 16.0
LAYOUT = {"patch": PATCH, "fps": FPS, "rope_fps": ROPE_FPS}


def encode(video):
    """As causal as the VAE, and a function of the pixels."""
    t, height, width, _ = video.shape
    x = video.astype(np.float32).reshape(t, height // 8, 8, width // 8, 8, 3)
    x = x.mean((2, 4))
    return np.concatenate([x[:1], x[1:].reshape(-1, 4, *x.shape[1:]).mean(1)])


def encode_conditions(video, encode, key, cell):
    clips, hole = condition_clips(video, key, cell)
    return {name: encode(clip) for name, clip in clips.items()} | hole


def clip(frames, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def with_a_hole(video):
    """The conditions of the first key that draws a hole."""
    for key in map(str, range(500)):
        made = encode_conditions(video, encode, key, CELL)
        if "greyed" in made:
            return made
    raise AssertionError("no hole in 500 clips")


def test_each_condition_is_encoded_from_its_own_frames_alone():
    video = clip(17)
    made = with_a_hole(video)
    alone = sorted(int(name[6:]) for name in made if name.startswith("frame_"))
    assert len(alone) == 3 and alone[-1] == 16 and 0 not in alone
    for frame in alone:
        one = encode(video[frame : frame + 1])
        np.testing.assert_array_equal(made[f"frame_{frame}"], one)
    for tail in (5, 9):
        np.testing.assert_array_equal(made[f"tail_{tail}"], encode(video[-tail:]))
    hole = made["hole"].astype(bool)
    other = video.copy()
    other[:, np.kron(hole, np.ones((CELL, CELL), bool))] = 7  # what nobody may see
    pixels = hole.repeat(CELL, axis=0).repeat(CELL, axis=1)
    again = encode(greyed(other, pixels))
    np.testing.assert_array_equal(made["greyed"], again)
    assert not np.array_equal(again, encode(other))


@pytest.mark.parametrize(
    ("frames", "names"),
    [
        (1, set()),
        (5, {"frame_1", "frame_2", "frame_3", "frame_4"}),
        (9, {"tail_5"}),
        (13, {"tail_5", "tail_9"}),
    ],
)
def test_short_clips_have_what_is_shorter_than_they_are(frames, names):
    made = encode_conditions(clip(frames), encode, "clip", CELL)
    tails = {name for name in made if name.startswith("tail_")}
    assert tails == {name for name in names if name.startswith("tail_")}
    if frames == 5:
        assert set(made) - {"hole", "greyed"} < names
    assert bool(made) == (frames > 1)


def test_one_clip_in_twenty_has_a_hole_and_all_is_a_function_of_the_key():
    video = clip(5)
    made = [encode_conditions(video, encode, str(key), CELL) for key in range(400)]
    assert 8 <= sum("hole" in one for one in made) <= 34
    again = encode_conditions(video, encode, "7", CELL)
    assert again.keys() == made[7].keys()
    assert len({tuple(one) for one in made}) > 3


def test_holes_are_boxes_or_borders_and_leave_something_to_see():
    rng = np.random.default_rng(0)
    holes = [random_hole(rng, 6, 8) for _ in range(200)]
    assert all(hole.any() and not hole.all() for hole in holes)
    assert 60 < sum(hole[0, 0] and hole[-1, -1] for hole in holes) < 140
    assert random_hole(rng, 1, 1).all()


def laid(visit, video=None, conditions=None):
    video = clip(17) if video is None else video
    made = with_a_hole(video) if conditions is None else conditions
    return lay_out(encode(video), made, visit, **LAYOUT)


def visit(**given):
    return Visit(0, 0, 0, 0, given.pop("latent_frames", 5), True, **given)


def test_a_prefix_is_known_in_place():
    tokens, places, condition_mask = laid(visit(prefix=2))
    np.testing.assert_array_equal(tokens, patchify(encode(clip(17)), PATCH))
    assert (
        condition_mask[:12].all() and not condition_mask[12:].any()
    )  # 6 tokens a latent frame
    np.testing.assert_array_equal(
        places, positions(LatentGrid(t=5, h=4, w=6), PATCH, FPS, ROPE_FPS)
    )


def test_a_window_from_the_middle_begins_at_time_zero():
    tokens, places, condition_mask = laid(visit(prefix=2, start=2, latent_frames=3))
    np.testing.assert_array_equal(tokens, patchify(encode(clip(17))[2:], PATCH))
    assert (
        places[0, 0] == 0 and condition_mask.sum() == 12 and len(condition_mask) == 18
    )


def test_what_is_appended_stands_at_its_own_time():
    video = clip(17)
    made = with_a_hole(video)
    alone = sorted(int(name[6:]) for name in made if name.startswith("frame_"))
    tokens, places, condition_mask = laid(visit(frames=0b101, tail=2), video, made)
    assert not condition_mask[:30].any() and condition_mask[30:].all()
    assert len(tokens) == 30 + 6 + 6 + 18
    np.testing.assert_array_equal(tokens[:30], patchify(encode(video), PATCH))
    behind = tokens[30:].reshape(5, 6, -1)
    for place, frame in ((0, alone[0]), (1, 16)):
        np.testing.assert_array_equal(
            behind[place], patchify(encode(video[frame : frame + 1]), PATCH)
        )
    np.testing.assert_array_equal(
        behind[2:].reshape(18, -1), patchify(encode(video[8:]), PATCH)
    )
    expected = np.array([alone[0], 16, 8, 12, 16]) / 4 * ROPE_FPS / FPS
    np.testing.assert_allclose(places[30:, 0].reshape(5, 6)[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(places[30:36, 1:], places[:6, 1:])


def test_what_is_appended_is_as_far_from_a_window_as_from_its_part_of_the_clip():
    whole = laid(visit(tail=1))[1]
    window = laid(visit(tail=1, prefix=1, start=2, latent_frames=3))[1]
    late = whole[0] - whole[2 * 6]  # 6 tokens a latent frame
    np.testing.assert_allclose(window, whole[2 * 6 :] + late, rtol=0, atol=1e-6)


def test_around_a_hole_tokens_are_known_and_tell_nothing_of_it():
    video = clip(17)
    made = with_a_hole(video)
    hole = made["hole"].astype(bool)
    tokens, _, condition_mask = laid(visit(spatial=True), video, made)
    np.testing.assert_array_equal(
        condition_mask.reshape(5, 2, 3), np.tile(~hole, (5, 1, 1))
    )
    np.testing.assert_array_equal(
        tokens[condition_mask], patchify(made["greyed"], PATCH)[condition_mask]
    )
    full = patchify(encode(video), PATCH)
    np.testing.assert_array_equal(tokens[~condition_mask], full[~condition_mask])

"""Each task asks the sampler for the right clips, and makes the right video of them."""

import numpy as np
import pytest

from soraxla.generation.blending import cross_fade
from soraxla.generation.task_inputs import (
    Animate,
    Connect,
    Edit,
    Extend,
    Inpaint,
    Loop,
    Outpaint,
)
from tests.lossless import (
    CFG,
    OTHER,
    SIDE,
    TRUTH,
    anything,
    condition_frames,
    context_of,
    decode,
    drive,
    encode,
    oracle,
)

pytestmark = pytest.mark.usefixtures("lossless")


# --- With an oracle for a sampler, every task returns the truth -------------------


@pytest.mark.parametrize(
    ("first", "last", "condition_mask"),
    [
        (False, False, (0, [])),
        (True, False, (1, [])),
        (False, True, (0, [8.0])),
        (True, True, (1, [8.0])),
    ],
)
def test_animation(first, last, condition_mask):
    task = Animate(
        first=TRUTH[:1] if first else None, last=TRUTH[32:33] if last else None
    )
    job = context_of(task, 33, prompt="a ball")
    video, [clip] = drive(job, oracle((TRUTH[:33], 0)))
    np.testing.assert_array_equal(video, TRUTH[:33])
    assert condition_frames(clip) == condition_mask and clip.fps == 12.0


def test_what_comes_after_stands_at_a_whole_latent_if_nothing_is_before():
    """As in training: 3 frames more are made, in which nothing is done, and dropped."""
    actions = np.arange(1, 31, dtype=np.float32)[:, None]
    job = context_of(Animate(last=TRUTH[29:30]), 30, actions=actions)
    whole = np.concatenate([OTHER[:3], TRUTH[:30]])
    video, [clip] = drive(job, oracle((whole, 0)))
    np.testing.assert_array_equal(video, TRUTH[:30])
    assert condition_frames(clip) == (0, [8.0])
    told = clip.steering.actions[:, 0]
    np.testing.assert_array_equal(told, np.arange(-2, 31).clip(0))


def test_extension_forward():
    """Three latents of the clip's last 9 frames are known."""
    task = Extend(video=TRUTH[:20])
    video, [clip] = drive(context_of(task, 37), oracle((TRUTH[11:40], 0)))
    np.testing.assert_array_equal(video, TRUTH[:37])
    assert clip.grid.t == 8 and condition_frames(clip) == (3, [])


def test_extension_backward():
    """The clip's first 9 frames, 16 to 24, are appended to the new ones."""
    task = Extend(video=TRUTH[16:40], direction="backward")
    video, [clip] = drive(context_of(task, 40), oracle((TRUTH[:25], 0)))
    np.testing.assert_array_equal(video, TRUTH[:40])
    assert clip.grid.t == 7 and condition_frames(clip) == (0, [4.0])


def test_extension_both_ways():
    task = Extend(video=TRUTH[16:40], direction="both")
    job = context_of(task, 24 + 33)
    video, clips = drive(job, oracle((TRUTH[:25], 0), (TRUTH[31:60], 0)))
    np.testing.assert_array_equal(video, TRUTH[:57])
    assert [condition_frames(clip) for clip in clips] == [(0, [4.0]), (3, [])]


def test_connection():
    """9 frames known, 15 new, 9 behind them: 33."""
    task = Connect(before=TRUTH[:20], after=TRUTH[35:55])
    video, [clip] = drive(context_of(task, 55), oracle((TRUTH[11:44], 0)))
    np.testing.assert_array_equal(video, TRUTH[:55])
    assert clip.grid.t == 9 and condition_frames(clip) == (3, [6.0])


def test_a_connection_of_any_length_is_exact():
    """16 new frames: what comes after stands between two latents."""
    task = Connect(before=TRUTH[:20], after=TRUTH[36:55])
    video, [clip] = drive(context_of(task, 55), oracle((TRUTH[11:48], 0)))
    np.testing.assert_array_equal(video, TRUTH[:55])
    assert condition_frames(clip) == (3, [6.25])


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("kind", [Connect, Loop])
def test_a_bridge_may_start_from_a_cross_fade_or_be_one(kind, strength):
    """The extensions of both clips are sampled one after the other and cross-faded.

    In the bridge, only the beginning is a condition in place."""
    after = TRUTH if kind is Loop else OTHER
    onward = np.concatenate([TRUTH[11:20], TRUTH[40:56]])
    towards = np.concatenate([OTHER[40:56], after[:9]])
    fade = cross_fade(onward[9:24], towards[1:16])
    start = np.concatenate([TRUTH[11:20], fade, after[:9]])
    pieces = [(onward, 0), (towards, 0), (start, 0)]
    if kind is Connect:
        task = Connect(before=TRUTH[:20], after=OTHER[:20], strength=strength)
    else:
        task = Loop(video=TRUTH[:20], strength=strength)
    frames = 20 + 15 + 20 * (kind is Connect)
    video, clips = drive(context_of(task, frames), oracle(*pieces))
    np.testing.assert_array_equal(video[20:35], fade)
    condition_mask = [condition_frames(clip) for clip in clips]
    assert condition_mask == [(3, []), (0, [4.0]), (3, [6.0])][: 3 if strength else 2]
    assert {clip.strength for clip in clips[:2]} == {1.0}
    if strength:
        np.testing.assert_array_equal(decode(None, CFG, clips[2].latents), start)
        assert clips[2].strength == strength


def test_a_loop_is_written_once_around():
    bridge = np.concatenate([TRUTH[11:20], OTHER[:15], TRUTH[:9]])
    video, _ = drive(context_of(Loop(video=TRUTH[:20]), 35), oracle((bridge, 0)))
    np.testing.assert_array_equal(video, np.concatenate([TRUTH[:20], OTHER[:15]]))


def test_a_loop_of_a_prompt_is_a_clip_that_is_then_closed():
    bridge = np.concatenate([TRUTH[9:18], OTHER[:15], TRUTH[:9]])
    job = context_of(Loop(), 33, prompt="waves")
    video, clips = drive(job, oracle((TRUTH[:21], 0), (bridge, 0)))
    np.testing.assert_array_equal(video, np.concatenate([TRUTH[:18], OTHER[:15]]))
    assert [condition_frames(clip) for clip in clips] == [(0, []), (3, [6.0])]


def test_an_edit_starts_from_the_clip_and_knows_nothing():
    job = context_of(Edit(video=OTHER[:17], strength=0.3), 17)
    video, [clip] = drive(job, oracle((TRUTH[:17], 0)))
    np.testing.assert_array_equal(video, TRUTH[:17])
    np.testing.assert_array_equal(clip.latents, encode(None, CFG, OTHER[:17]))
    assert clip.strength == 0.3 and not clip.condition_mask.any()


def test_inpainting_keeps_what_is_around_whole_patches():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3, 20] = True
    task = Inpaint(video=TRUTH[:17], mask=mask)
    made = np.where(mask[None, :, :, None], OTHER[:17], TRUTH[:17])
    video, [clip] = drive(context_of(task, 17), lambda clip: encode(None, CFG, made))
    np.testing.assert_array_equal(video, made)
    hole = np.zeros((4, 4), bool)
    hole[:2, 2:] = True
    np.testing.assert_array_equal(
        clip.condition_mask, np.broadcast_to(~hole, (5, 4, 4))
    )


@pytest.mark.parametrize("row", range(10, 20))
def test_a_line_stays_one_however_little_it_is_scaled(row):
    video = np.zeros((17, 48, 48, 3), np.uint8)
    mask = np.zeros((48, 48), bool)
    mask[row] = True
    _, [clip] = drive(context_of(Inpaint(video=video, mask=mask), 17), anything)
    assert (~clip.condition_mask).all(axis=(0, 2)).any()


def test_a_hole_thinner_than_a_pixel_is_one_still():
    video = OTHER[:17].repeat(8, axis=1).repeat(8, axis=2)
    mask = np.zeros(video.shape[1:3], bool)
    mask[100, 140:250] = True
    _, [clip] = drive(context_of(Inpaint(video=video, mask=mask), 17), anything)
    whole = np.zeros((4, 4), bool)
    whole[:2, 2:] = True  # 12, and 16 to 31, of 32 pixels
    np.testing.assert_array_equal(
        clip.condition_mask, np.broadcast_to(~whole, (5, 4, 4))
    )


def test_a_larger_canvas_keeps_the_clip_in_its_middle():
    task = Outpaint(video=TRUTH[:17])
    job = context_of(task, 17, width=80, height=64)
    made = np.zeros((17, 64, 80, 3), np.uint8)
    made[:, 16:48, 16:48] = TRUTH[:17]
    video, [clip] = drive(job, lambda clip: encode(None, CFG, made))
    np.testing.assert_array_equal(video, made)
    assert (
        clip.condition_mask.sum() == 5 * 4 * 4
        and clip.condition_mask[:, 2:6, 2:6].all()
    )


def test_around_a_hole_all_comes_back_as_it_was_given():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3, 20] = True
    hole = np.zeros((SIDE, SIDE), bool)
    hole[:16, 16:] = True
    job = context_of(Inpaint(video=TRUTH[:17], mask=mask), 17)
    video, _ = drive(job, anything)
    np.testing.assert_array_equal(video[:, ~hole], TRUTH[:17, ~hole])
    np.testing.assert_array_equal(video[:, 3, 28], OTHER[:17, 3, 28])  # no rim there
    video, _ = drive(
        context_of(Outpaint(video=TRUTH[:17]), 17, width=64),
        lambda clip: np.full_like(clip.latents, 100),
    )
    np.testing.assert_array_equal(video[:, :, 16:48], TRUTH[:17])


# --- A condition leaks nothing, and comes back as it was --------------------------


def same(one, two):
    for x, y in ((one, two), *zip(one.appended, two.appended, strict=True)):
        np.testing.assert_array_equal(x.latents, y.latents)


def test_frames_beyond_the_overlap_change_nothing():
    def clips(video):
        for task in (
            Connect(before=video, after=TRUTH[:20]),
            Connect(before=TRUTH[:20], after=video[::-1]),
            Extend(video=video),
            Extend(video=video[::-1], direction="backward"),
        ):
            yield from drive(context_of(task, 60), anything)[1]

    changed = TRUTH[:20].copy()
    changed[:11] = OTHER[:11]
    for one, two in zip(clips(TRUTH[:20]), clips(changed), strict=True):
        same(one, two)
    changed[11] = 255 - changed[11]
    with pytest.raises(AssertionError):
        for one, two in zip(clips(TRUTH[:20]), clips(changed), strict=True):
            same(one, two)


def test_what_is_in_a_hole_changes_nothing():
    """Neither where the mask is nor in the rest of its patches."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3, 20] = True
    changed = TRUTH[:17].copy()
    changed[:, :16, 16:] = OTHER[:17, :16, 16:]
    one, two = (
        drive(context_of(Inpaint(video=video, mask=mask), 17), anything)[1][0]
        for video in (TRUTH[:17], changed)
    )
    same(one, two)


A, B = TRUTH[:20], OTHER[:20]


@pytest.mark.parametrize(
    ("task", "frames", "given"),
    [
        (Animate(first=A[:1], last=B[:1]), 33, {0: A[:1], 32: B[:1]}),
        (Extend(video=A), 40, {0: A}),
        (Extend(video=A, direction="backward"), 40, {20: A}),
        (Extend(video=A, direction="both"), 40, {10: A}),
        (Connect(before=A, after=B), 55, {0: A, 35: B}),
        (Loop(video=A), 35, {0: A}),
    ],
)
def test_given_frames_come_back_and_their_difference_fades(task, frames, given):
    """However badly they are met: a grey video, 4 frames from each of them on."""
    video, _ = drive(
        context_of(task, frames), lambda clip: np.full_like(clip.latents, 100)
    )
    assert len(video) == frames
    for place, expected in given.items():
        np.testing.assert_array_equal(video[place : place + len(expected)], expected)
        for edge, sign in ((place, -1), (place + len(expected) - 1, 1)):
            for k in range(1, 5):
                if not 0 <= edge + sign * k < frames:
                    continue
                rest = (1 - k / 5) * (video[edge].astype(float) - 100)
                np.testing.assert_allclose(video[edge + sign * k], 100 + rest, atol=0.5)


def test_a_loop_fades_to_its_beginning_too():
    video, _ = drive(
        context_of(Loop(video=A), 35), lambda clip: np.full_like(clip.latents, 100)
    )
    rest = 0.8 * (A[0].astype(float) - 100)
    np.testing.assert_allclose(video[-1], 100 + rest, atol=0.5)


def test_frames_of_another_size_are_brought_to_it_first():
    """32 wide cut to 24, which is then filled up to whole patches."""
    job = context_of(Extend(video=TRUTH[:20]), 37, width=24)
    video, [clip] = drive(job, anything)
    np.testing.assert_array_equal(video[:20], TRUTH[:20, :, 4:28])
    assert clip.grid.w == 4

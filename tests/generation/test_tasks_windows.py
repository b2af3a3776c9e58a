"""Long videos are made window by window, each told what the last one made."""

from dataclasses import replace

import numpy as np
import pytest

from soraxla.generation.task_inputs import Animate, Connect, Edit, Extend, Loop
from soraxla.generation.tasks import spans
from tests.lossless import (
    CFG,
    FRAMES,
    OTHER,
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


def test_a_long_clip_goes_by_windows_that_begin_with_what_the_last_one_made():
    """65 frames, 17 latents, at most 9 at once and 3 in common."""
    job = context_of(Animate(first=TRUTH[:1], last=TRUTH[64:]), 65, limit=9)
    windows = [(TRUTH, 0), (TRUTH, 4), (TRUTH, 9)]
    video, clips = drive(job, oracle(*windows))
    np.testing.assert_array_equal(video, TRUTH)
    assert [clip.grid.t for clip in clips] == [7, 8, 8]
    assert [condition_frames(clip) for clip in clips] == [(1, []), (3, []), (3, [7.0])]


def test_what_is_asked_for_stands_above_the_model_s_own_limit():
    job = context_of(Animate(), 65, limit=9, window=34, overlap=7, prompt="x")
    assert job.window == 9 and job.overlap == 2 and job.overlap_frames == 5
    _, clips = drive(job, lambda clip: clip.latents)
    assert [clip.grid.t for clip in clips] == [7, 7, 7]


def test_a_long_way_back_goes_from_window_to_window():
    """17 frames at most, 9 of them given: 8 new ones, the last window first."""
    task = Extend(video=TRUTH[20:40], direction="backward")
    pieces = [(TRUTH[12:29], 0), (TRUTH[4:21], 0), (TRUTH[:13], 0)]
    video, clips = drive(context_of(task, 40, limit=5), oracle(*pieces))
    np.testing.assert_array_equal(video, TRUTH[:40])
    assert [condition_frames(clip) for clip in clips] == [(0, [2.0])] * 2 + [(0, [1.0])]


@pytest.mark.parametrize("task", [Animate(last=TRUTH[:1]), Animate(first=TRUTH[:1])])
def test_windows_of_the_model_s_limit_have_a_new_frame_each(task):
    """By default windows share three latent frames, all that this model has."""
    job = context_of(task, 33, limit=3)
    assert job.overlap == 2
    _, clips = drive(job, anything)
    assert [clip.grid.t for clip in clips[1:]] == [3] * 6
    with pytest.raises(ValueError, match="windows of 1 latent frames cannot overlap"):
        drive(context_of(task, 33, limit=1), anything)


@pytest.mark.parametrize(
    "task", [Connect(before=TRUTH[:20], after=OTHER[:20]), Loop(video=TRUTH[:20])]
)
def test_windows_that_come_too_late_to_what_comes_after_are_refused(task):
    """15 new frames between 9 and 9, two latents a window: the last makes none."""
    job = context_of(task, 35 + 20 * isinstance(task, Connect), limit=5)
    with pytest.raises(ValueError, match="come to the 9 after them: give a longer"):
        drive(job, anything)
    drive(replace(job, limit=6), anything)
    apart = replace(job.request, task=replace(task, strength=0.0))
    drive(replace(job, request=apart), anything)  # nothing is between two


def test_a_way_back_in_windows_is_steered_all_along():
    actions = np.arange(65, dtype=np.float32)[:, None]
    job = context_of(Animate(last=TRUTH[64:]), 65, limit=9, actions=actions)
    _, clips = drive(job, anything)
    assert [clip.steering.actions[0, 0] for clip in clips] == [32, 8, 0]
    for clip in clips:
        rows = clip.steering.actions
        own = np.arange(len(rows)) + rows[0, 0]
        np.testing.assert_array_equal(rows[:, 0], own * (own < 65))


@pytest.mark.parametrize(
    ("task", "frames", "windows"),
    [
        (Animate(), 65, [(0, 65, 0)]),
        (Animate(first=TRUTH[:1], last=OTHER[:1]), 65, [(1, 63, 1)]),
        (Extend(video=TRUTH[:20]), 36, [(9, 16, 0)]),
        (Extend(video=TRUTH[:20], direction="both"), 40, [(0, 10, 9), (9, 10, 0)]),
        (Connect(before=TRUTH[:20], after=OTHER[:12]), 92, [(9, 60, 9)]),
        (
            Connect(before=TRUTH[:20], after=OTHER[:12], strength=0.5),
            92,
            [(9, 60, 0), (0, 60, 9), (9, 60, 9)],
        ),
        (Loop(video=TRUTH[:20]), 35, [(9, 15, 9)]),
        (Loop(strength=0.0), 33, [(0, 18, 0), (9, 15, 0), (0, 15, 9)]),
        (Loop(), 33, [(0, 18, 0), (9, 15, 9)]),
        (Edit(video=TRUTH), FRAMES, [(0, 65, 0)]),
    ],
)
def test_what_is_made_is_known_before(task, frames, windows):
    """As many clips are sampled as the windows of all stretches say."""
    job = context_of(task, frames, limit=9, prompt="x")
    assert spans(job) == windows
    _, clips = drive(job, anything)
    assert len(clips) == sum(len(job.window_ends(span)) for span in spans(job))


def test_a_long_edit_starts_each_window_from_its_own_part():
    job = context_of(Edit(video=OTHER, strength=0.3), FRAMES, limit=9)
    latents = encode(None, CFG, OTHER)
    video, clips = drive(job, oracle((TRUTH, 0), (TRUTH, 4), (TRUTH, 9)))
    np.testing.assert_array_equal(video, TRUTH)
    for clip, start in zip(clips, (0, 4, 9), strict=True):
        k = condition_frames(clip)[0]
        assert k == (3 if start else 0)
        own = latents[start : start + clip.grid.t]
        np.testing.assert_array_equal(clip.latents[k:], own[k:])


def test_the_decoder_sees_the_whole_clip_at_once(monkeypatch):
    """Its stream goes on over the windows."""
    seen = []

    def watched(params, cfg, latents):
        seen.append(latents)
        return iter([decode(params, cfg, latents)])

    monkeypatch.setattr("soraxla.generation.context.decode_stream", watched)
    job = context_of(Animate(), 65, limit=9, prompt="x")
    drive(job, oracle((TRUTH, 0), (TRUTH, 4), (TRUTH, 9)))
    np.testing.assert_array_equal(*seen, encode(None, CFG, TRUTH))

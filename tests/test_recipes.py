"""Each task asks the sampler for the right clips, and makes the right video of them.

The VAE here loses nothing: a latent is its 4 frames (the first one its one), so that
with an oracle for a sampler every task has to return the truth to the bit.
"""

import numpy as np
import pytest

from soraxla.models.vae import VAEConfig
from soraxla.recipes import Studio, recipe
from soraxla.request import (
    Animate,
    Connect,
    Edit,
    Extend,
    Inpaint,
    Loop,
    Outpaint,
    Request,
)
from soraxla.sampling.seams import cross_fade
from soraxla.weights import Loaded

SIDE, FRAMES = 32, 65
CFG = VAEConfig(base_width=1, latent_channels=4 * 8 * 8 * 3)
TRUTH = np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, TRUTH.shape, np.uint8)


def encode(params, cfg, video):
    """Frames 1 + 4k to latents (k + 1, h / 8, w / 8, 4·8·8·3)."""
    video = np.concatenate([np.zeros_like(video[:1]).repeat(3, axis=0), video])
    t, h, w, _ = video.shape
    cut = video.reshape(t // 4, 4, h // 8, 8, w // 8, 8, 3)
    z = cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t // 4, h // 8, w // 8, -1)
    return z.astype(np.float32)


def decode(params, cfg, latents):
    t, h, w, _ = latents.shape
    cut = latents.reshape(t, h, w, 4, 8, 8, 3).transpose(0, 3, 1, 4, 2, 5, 6)
    return cut.reshape(4 * t, 8 * h, 8 * w, 3)[3:].astype(np.uint8)


@pytest.fixture(autouse=True)
def lossless(monkeypatch):
    monkeypatch.setattr("soraxla.recipes.encode_clip", encode)
    monkeypatch.setattr("soraxla.recipes.decode_clip", decode)


def studio(task, frames, limit=None, **changes):
    settings = {"prompt": "", "width": SIDE, "height": SIDE, "fps": 12.0} | changes
    request = Request(task=task, frames=frames, **settings)
    vae = Loaded(params=None, model=CFG, config={})
    return Studio(request=request, vae=vae, patch=(1, 2, 2), limit=limit)


def drive(job, sample):
    """The video of a recipe, with sample(clip) for a sampler, and the clips."""
    steps, asked = recipe(job), []
    try:
        clip = next(steps)
        while True:
            asked.append(clip)
            clip = steps.send(sample(clip))
    except StopIteration as done:
        return done.value, asked


def oracle(*pieces):
    """For the clips in turn: (frames of the truth, its first latent in them, or 0).

    What a clip says that it knows has to be the truth.
    """
    turns = iter(pieces)

    def sample(clip):
        video, start = next(turns)
        truth = encode(None, CFG, video)[start : start + clip.grid.t]
        assert truth.shape == clip.latents.shape
        np.testing.assert_array_equal(clip.latents[clip.known], truth[clip.known])
        for given in clip.alone:
            first = round(4 * (start + given.place))
            frames = video[first : first + 1 + 4 * (len(given.latents) - 1)]
            np.testing.assert_array_equal(given.latents, encode(None, CFG, frames))
        return truth

    return sample


def known_frames(clip):
    """Latent frames that are known in place, and the places of what is given alone."""
    return int(clip.known[:, 0, 0].sum()), [given.place for given in clip.alone]


# --- With an oracle for a sampler, every task returns the truth -------------------


@pytest.mark.parametrize(
    ("first", "last", "known"),
    [
        (False, False, (0, [])),
        (True, False, (1, [])),
        (False, True, (0, [8.0])),
        (True, True, (1, [8.0])),
    ],
)
def test_animation(first, last, known):
    task = Animate(
        first=TRUTH[:1] if first else None, last=TRUTH[32:33] if last else None
    )
    job = studio(task, 33, prompt="a ball")
    video, [clip] = drive(job, oracle((TRUTH[:33], 0)))
    np.testing.assert_array_equal(video, TRUTH[:33])
    assert known_frames(clip) == known and clip.fps == 12.0


def test_extension_forward():
    """Three latents of the clip's last 9 frames are known."""
    task = Extend(video=TRUTH[:20])
    video, [clip] = drive(studio(task, 37), oracle((TRUTH[11:40], 0)))
    np.testing.assert_array_equal(video, TRUTH[:37])
    assert clip.grid.t == 8 and known_frames(clip) == (3, [])


def test_extension_backward():
    """The clip's first 9 frames stand behind what leads to them: frames 16 to 24."""
    task = Extend(video=TRUTH[16:40], direction="backward")
    video, [clip] = drive(studio(task, 40), oracle((TRUTH[:25], 0)))
    np.testing.assert_array_equal(video, TRUTH[:40])
    assert clip.grid.t == 7 and known_frames(clip) == (0, [4.0])


def test_extension_both_ways():
    task = Extend(video=TRUTH[16:40], direction="both")
    job = studio(task, 24 + 33)
    video, clips = drive(job, oracle((TRUTH[:25], 0), (TRUTH[31:60], 0)))
    np.testing.assert_array_equal(video, TRUTH[:57])
    assert [known_frames(clip) for clip in clips] == [(0, [4.0]), (3, [])]


def test_connection():
    """9 frames known, 15 new, 9 behind them: 33."""
    task = Connect(before=TRUTH[:20], after=TRUTH[35:55])
    video, [clip] = drive(studio(task, 55), oracle((TRUTH[11:44], 0)))
    np.testing.assert_array_equal(video, TRUTH[:55])
    assert clip.grid.t == 9 and known_frames(clip) == (3, [6.0])


def test_a_connection_of_any_length_is_exact():
    """16 new frames: what comes after stands between two latents."""
    task = Connect(before=TRUTH[:20], after=TRUTH[36:55])
    video, [clip] = drive(studio(task, 55), oracle((TRUTH[11:48], 0)))
    np.testing.assert_array_equal(video, TRUTH[:55])
    assert known_frames(clip) == (3, [6.25])


@pytest.mark.parametrize(
    "task",
    [
        Connect(before=TRUTH[:20], after=OTHER[:20], strength=0.5),
        Loop(video=TRUTH[:20], strength=0.5),
    ],
)
def test_a_bridge_may_start_from_a_cross_fade(task):
    """Nothing but the beginning is known in place, as at full strength."""
    after = getattr(task, "after", TRUTH)[:9]
    job = studio(task, 20 + 15 + 20 * isinstance(task, Connect))
    _, [clip] = drive(job, lambda clip: clip.latents)
    fade = cross_fade(TRUTH[19], after[0], 15)
    start = np.concatenate([TRUTH[11:20], fade, after])
    np.testing.assert_array_equal(decode(None, CFG, clip.latents), start)
    assert clip.strength == 0.5 and known_frames(clip) == (3, [6.0])


def test_a_loop_is_written_once_around():
    bridge = np.concatenate([TRUTH[11:20], OTHER[:15], TRUTH[:9]])
    video, _ = drive(studio(Loop(video=TRUTH[:20]), 35), oracle((bridge, 0)))
    np.testing.assert_array_equal(video, np.concatenate([TRUTH[:20], OTHER[:15]]))


def test_a_loop_of_a_prompt_is_a_clip_that_is_then_closed():
    bridge = np.concatenate([TRUTH[9:18], OTHER[:15], TRUTH[:9]])
    job = studio(Loop(), 33, prompt="waves")
    video, clips = drive(job, oracle((TRUTH[:21], 0), (bridge, 0)))
    np.testing.assert_array_equal(video, np.concatenate([TRUTH[:18], OTHER[:15]]))
    assert [known_frames(clip) for clip in clips] == [(0, []), (3, [6.0])]


def test_an_edit_starts_from_the_clip_and_knows_nothing():
    job = studio(Edit(video=OTHER[:17], strength=0.3), 17)
    video, [clip] = drive(job, oracle((TRUTH[:17], 0)))
    np.testing.assert_array_equal(video, TRUTH[:17])
    np.testing.assert_array_equal(clip.latents, encode(None, CFG, OTHER[:17]))
    assert clip.strength == 0.3 and not clip.known.any()


def test_inpainting_keeps_what_is_around_whole_patches():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3, 20] = True
    task = Inpaint(video=TRUTH[:17], mask=mask)
    made = np.where(mask[None, :, :, None], OTHER[:17], TRUTH[:17])
    video, [clip] = drive(studio(task, 17), lambda clip: encode(None, CFG, made))
    np.testing.assert_array_equal(video, made)
    hole = np.zeros((4, 4), bool)
    hole[:2, 2:] = True
    np.testing.assert_array_equal(clip.known, np.broadcast_to(~hole, (5, 4, 4)))


def test_a_larger_canvas_keeps_the_clip_in_its_middle():
    task = Outpaint(video=TRUTH[:17])
    job = studio(task, 17, width=80, height=64)
    made = np.zeros((17, 64, 80, 3), np.uint8)
    made[:, 16:48, 16:48] = TRUTH[:17]
    video, [clip] = drive(job, lambda clip: encode(None, CFG, made))
    np.testing.assert_array_equal(video, made)
    assert clip.known.sum() == 5 * 4 * 4 and clip.known[:, 2:6, 2:6].all()


def test_around_a_hole_all_comes_back_as_it_was_given():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[3, 20] = True
    hole = np.zeros((SIDE, SIDE), bool)
    hole[:16, 16:] = True
    job = studio(Inpaint(video=TRUTH[:17], mask=mask), 17)
    video, _ = drive(job, anything)
    np.testing.assert_array_equal(video[:, ~hole], TRUTH[:17, ~hole])
    np.testing.assert_array_equal(video[:, 3, 28], OTHER[:17, 3, 28])  # no rim there
    video, _ = drive(
        studio(Outpaint(video=TRUTH[:17]), 17, width=64),
        lambda clip: np.full_like(clip.latents, 100),
    )
    np.testing.assert_array_equal(video[:, :, 16:48], TRUTH[:17])


# --- Windows ----------------------------------------------------------------------


def test_a_long_clip_goes_by_windows_that_begin_with_what_the_last_one_made():
    """65 frames, 17 latents, at most 9 at once and 3 in common."""
    job = studio(Animate(first=TRUTH[:1], last=TRUTH[64:]), 65, limit=9)
    windows = [(TRUTH, 0), (TRUTH, 4), (TRUTH, 9)]
    video, clips = drive(job, oracle(*windows))
    np.testing.assert_array_equal(video, TRUTH)
    assert [clip.grid.t for clip in clips] == [7, 8, 8]
    assert [known_frames(clip) for clip in clips] == [(1, []), (3, []), (3, [7.0])]


def test_what_is_asked_for_stands_above_the_model_s_own_limit():
    job = studio(Animate(), 65, limit=9, window=34, overlap=7, prompt="x")
    assert job.window == 9 and job.overlap == 2 and job.overlap_frames == 5
    _, clips = drive(job, lambda clip: clip.latents)
    assert [clip.grid.t for clip in clips] == [7, 7, 7]


def test_a_long_way_back_goes_from_window_to_window():
    """17 frames at most, 9 of them given: 8 new ones, the last window first."""
    task = Extend(video=TRUTH[20:40], direction="backward")
    pieces = [(TRUTH[12:29], 0), (TRUTH[4:21], 0), (TRUTH[:13], 0)]
    video, clips = drive(studio(task, 40, limit=5), oracle(*pieces))
    np.testing.assert_array_equal(video, TRUTH[:40])
    assert [known_frames(clip) for clip in clips] == [(0, [2.0])] * 2 + [(0, [1.0])]


@pytest.mark.parametrize("task", [Animate(last=TRUTH[:1]), Animate(first=TRUTH[:1])])
def test_windows_no_longer_than_their_overlap_are_refused(task):
    with pytest.raises(ValueError, match="windows of 3 latent frames cannot overlap"):
        drive(studio(task, 33, limit=3), anything)


def test_a_long_edit_starts_each_window_from_its_own_part():
    job = studio(Edit(video=OTHER, strength=0.3), FRAMES, limit=9)
    latents = encode(None, CFG, OTHER)
    video, clips = drive(job, oracle((TRUTH, 0), (TRUTH, 4), (TRUTH, 9)))
    np.testing.assert_array_equal(video, TRUTH)
    for clip, start in zip(clips, (0, 4, 9), strict=True):
        k = known_frames(clip)[0]
        assert k == (3 if start else 0)
        own = latents[start : start + clip.grid.t]
        np.testing.assert_array_equal(clip.latents[k:], own[k:])


def test_the_decoder_sees_the_whole_clip_at_once(monkeypatch):
    """Its stream goes on over the windows."""
    seen = []

    def watched(params, cfg, latents):
        seen.append(latents)
        return decode(params, cfg, latents)

    monkeypatch.setattr("soraxla.recipes.decode_clip", watched)
    job = studio(Animate(), 65, limit=9, prompt="x")
    drive(job, oracle((TRUTH, 0), (TRUTH, 4), (TRUTH, 9)))
    np.testing.assert_array_equal(*seen, encode(None, CFG, TRUTH))


# --- A condition leaks nothing, and comes back as it was --------------------------


def anything(clip):
    """A sampler that has no idea."""
    return encode(None, CFG, OTHER[: 1 + 4 * (clip.grid.t - 1), : 8 * clip.grid.h])[
        :, :, : clip.grid.w
    ]


def same(one, two):
    for x, y in ((one, two), *zip(one.alone, two.alone, strict=True)):
        np.testing.assert_array_equal(x.latents, y.latents)


def test_frames_beyond_the_overlap_change_nothing():
    def clips(video):
        for task in (
            Connect(before=video, after=TRUTH[:20]),
            Connect(before=TRUTH[:20], after=video[::-1]),
            Extend(video=video),
            Extend(video=video[::-1], direction="backward"),
        ):
            yield from drive(studio(task, 60), anything)[1]

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
        drive(studio(Inpaint(video=video, mask=mask), 17), anything)[1][0]
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
    video, _ = drive(studio(task, frames), lambda clip: np.full_like(clip.latents, 100))
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
        studio(Loop(video=A), 35), lambda clip: np.full_like(clip.latents, 100)
    )
    rest = 0.8 * (A[0].astype(float) - 100)
    np.testing.assert_allclose(video[-1], 100 + rest, atol=0.5)


def test_frames_of_another_size_are_brought_to_it_first():
    """32 wide cut to 24, which is then filled up to whole patches."""
    job = studio(Extend(video=TRUTH[:20]), 37, width=24)
    video, [clip] = drive(job, anything)
    np.testing.assert_array_equal(video[:20], TRUTH[:20, :, 4:28])
    assert clip.grid.w == 4

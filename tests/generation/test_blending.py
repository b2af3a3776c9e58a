"""Input frames are brought to size, hidden in holes, and come back unchanged."""

import numpy as np
import pytest

from soraxla.generation.blending import (
    FADE,
    RIM,
    cross_fade,
    fit,
    whole_patches,
    with_frames,
    with_surroundings,
)
from soraxla.media.lazy_video import LazyVideo
from soraxla.packing.conditioning import greyed


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def ramp(height, width):
    """Red grows to the right, green down, both in even steps over the picture."""
    y, x = (np.arange(side)[:, None] + 0.5 for side in (height, width))
    red = np.broadcast_to(255 * x.T / width, (height, width))
    green = np.broadcast_to(255 * y / height, (height, width))
    return np.stack([red, green, 0 * red], axis=-1).round().astype(np.uint8)[None]


def test_a_cross_fade_is_slow_at_its_ends_and_the_same_both_ways():
    before, after = (noise(1, 4, 5, 3, seed=i).repeat(15, axis=0) for i in (0, 1))
    fade = np.asarray(cross_fade(before, after)).astype(int)
    back = np.asarray(cross_fade(after, before))
    np.testing.assert_allclose(fade[::-1], back, atol=1)
    np.testing.assert_allclose(fade[7], (before[7].astype(int) + after[7]) / 2, atol=1)
    whole = np.concatenate([before[:1], fade, after[:1]]).astype(int)
    steps = np.abs(np.diff(whole, axis=0)).mean((1, 2, 3))
    assert (np.diff(steps[:8]) > 0).all() and steps[0] < steps[7] / 20


def test_a_cross_fade_is_of_frames_in_step():
    before, after = noise(3, 2, 2, 3), noise(3, 2, 2, 3, seed=1)
    fade = np.asarray(cross_fade(before, after))
    for i, w in enumerate((53 / 512, 0.5, 459 / 512)):
        expected = (1 - w) * before[i] + w * after[i]
        np.testing.assert_allclose(fade[i], expected, atol=0.51)


# --- Size -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cover", "crop", "pad"])
def test_frames_of_the_right_size_are_left_alone(how):
    video = noise(3, 17, 33, 3)
    np.testing.assert_array_equal(fit(video, 33, 17, how), video)


@pytest.mark.parametrize("how", ["cover", "crop"])
def test_one_side_too_long_is_cut_at_the_centre(how):
    video = noise(3, 17, 33, 3)
    np.testing.assert_array_equal(fit(video, 20, 17, how), video[:, :, 6:26])
    np.testing.assert_array_equal(fit(video, 33, 9, how), video[:, 4:13])


@pytest.mark.parametrize(
    ("height", "width"), [(90, 160), (480, 640), (64, 64), (300, 100), (7, 11)]
)
@pytest.mark.parametrize("size", [(64, 36), (50, 38), (16, 64)])
def test_the_middle_of_a_picture_covers_the_size(height, width, size):
    """The middle of a ramp remains, as much of it as fits the aspect."""
    [out] = fit(ramp(height, width), *size, "cover")
    assert out.shape == (size[1], size[0], 3)
    scale = min(width / size[0], height / size[1])
    for channel, shown, whole in (
        (out[out.shape[0] // 2, :, 0], size[0], width),
        (out[:, out.shape[1] // 2, 1], size[1], height),
    ):
        place = (np.arange(shown) - (shown - 1) / 2) * scale / whole
        inner = slice(shown // 8, -(shown // 8))  # a window ends at the border
        # A side is cut to whole pixels, and centred to half a one.
        error = np.abs(channel - 255 * (0.5 + place))[inner].max()
        assert error < 255 / whole + 1.5


def test_a_thin_picture_is_not_blown_up_first():
    thin = np.full((1, 1, 20_000, 3), 9, np.uint8)
    assert fit(thin, 16, 8192, "cover").shape == (1, 8192, 16, 3)


def test_cut_frames_are_not_scaled_and_must_be_large_enough():
    video = noise(2, 40, 60, 3)
    np.testing.assert_array_equal(fit(video, 32, 16, "crop"), video[:, 12:28, 14:46])
    with pytest.raises(
        ValueError, match="60x40 pixels cannot be cropped to 64x16"
    ) as error:
        fit(video, 64, 16, "crop")
    assert "\n" not in str(error.value)


def test_padded_frames_are_whole_and_on_black():
    """40x20 in 32x32 is 32x16, in the middle."""
    out = fit(np.full((2, 20, 40, 3), 200, np.uint8), 32, 32, "pad")
    assert np.all(out[:, 8:24] == 200)
    assert np.all(out[:, :8] == 0) and np.all(out[:, 24:] == 0)


# --- Frames -----------------------------------------------------------------------


def grey(*values):
    return np.array(values, np.uint8)[:, None, None, None].repeat(3, axis=-1)


def shown(video):
    return video[:, 0, 0, 0].tolist()


def faded(video, before, after):
    """The whole video, with these input frames at its beginning and its end."""
    stop = len(video) - len(after)
    made = with_frames(video, len(before), stop, before[-1:], after[:1])
    new = np.asarray(made)
    return np.concatenate([before, new, after])


def test_given_frames_stay_and_their_differences_fade_to_both_sides():
    video = grey(*[100] * 12)
    out = faded(video, grey(150), grey(50))
    assert shown(out) == [150, 140, 130, 120, 110, 100, 100, 90, 80, 70, 60, 50]
    assert len(out) > 2 * FADE and np.all(video == 100)
    assert shown(faded(video, grey(150), video[:0]))[:7] == [
        *[150, 140, 130, 120, 110],
        *[100, 100],
    ]


def test_between_two_given_frames_differences_are_mixed():
    """Never more of them than one whole."""
    out = faded(grey(100, 100, 100), grey(150), grey(150))
    assert shown(out) == [150, 150, 150]
    out = faded(grey(100, 100, 100), grey(150), grey(50))
    assert shown(out) == [150, 100, 50]


def test_what_stands_still_does_not_jump():
    """The model's frames are 60 brighter than the given ones, and as still."""
    video = grey(*[100] * 5, *[160] * 9)
    out = faded(video, video[:5], video[:0])
    assert shown(out) == [*[100] * 5, 112, 124, 136, 148, *[160] * 5]
    out = faded(video, video[:0], video[5:])
    assert shown(out) == [100, 112, 124, 136, 148, *[160] * 9]
    one = faded(video[4:], video[4:5], video[:0])
    assert shown(one) == [100, 112, 124, 136, 148, *[160] * 5]


def test_what_moves_is_not_held_back():
    """A bar passes over a ground that is 5 brighter after the join."""
    video = np.full((12, 32, 48, 3), 100, np.uint8)
    video[6:] += 5
    for f, frame in enumerate(video):
        frame[:, 4 * f : 4 * f + 4] = 250
    out = faded(video, video[:6], video[:0])
    for f, frame in enumerate(out):  # the ground's change at most is taken along
        bar = frame[:, 4 * f : 4 * f + 4]
        assert np.all((bar >= 245) & (bar <= 250))
    assert np.all(out[6, :, 40:] == 101) and np.all(out[6, :, :8] == 101)


def test_a_fade_does_not_wrap_around():
    assert shown(faded(grey(10, 250), grey(255), grey(1)[:0])) == [255, 255]


@pytest.mark.parametrize("new", [1, 2, 3, 12])
def test_a_part_of_faded_frames_is_the_part_of_them_all(new):
    """No frame is read but those from which a part is made."""
    video, before, after = (
        noise(3 + new + 2, 8, 8, 3),
        noise(1, 8, 8, 3),
        noise(1, 8, 8, 3),
    )
    read = []
    watched = LazyVideo(
        video.shape, lambda a, b: (read.append(f) or video[f] for f in range(a, b))
    )
    made = with_frames(watched, 3, 3 + new, before, after)
    whole = np.asarray(made)
    for first in range(new):
        for last in range(first, new):
            read.clear()
            part = np.asarray(made[first : last + 1])
            np.testing.assert_array_equal(part, whole[first : last + 1])
            assert not read or max(read) <= 3 + last + FADE + 2


# --- Holes ------------------------------------------------------------------------


def test_a_hole_grows_to_whole_patches():
    hole = np.zeros((32, 48), bool)
    hole[15, 16:18] = hole[31, 47] = True
    whole = whole_patches(hole, (16, 16))
    expected = np.zeros_like(hole)
    expected[:16, 16:32] = expected[16:, 32:] = True
    np.testing.assert_array_equal(whole, expected)


def test_a_hole_shows_nothing_of_what_is_in_it():
    hole = noise(8, 8) > 128
    one, two = noise(2, 8, 8, 3), noise(2, 8, 8, 3, seed=1)
    two[:, ~hole] = one[:, ~hole]
    np.testing.assert_array_equal(greyed(one, hole), greyed(two, hole))
    np.testing.assert_array_equal(greyed(one, hole)[:, ~hole], one[:, ~hole])


def test_around_a_hole_all_is_as_given_and_fades_into_it():
    """Input frames are 45 brighter than generated ones, less so from ring to ring."""
    hole = np.zeros((40, 40), bool)
    hole[8:32, 8:32] = True
    made, given = np.full((2, 40, 40, 3), 100, np.uint8), noise(2, 40, 40, 3)
    given[:, 7:33, 7:33] = 145
    out = np.asarray(with_surroundings(made, given, hole))
    np.testing.assert_array_equal(out[:, ~hole], given[:, ~hole])
    rings = [round(100 + 45 * (1 - k / (RIM + 1))) for k in range(1, RIM + 1)]
    assert out[0, 20, 8:20, 0].tolist() == [*rings, *[100] * (12 - RIM)]
    assert out[1, 8:20, 20, 2].tolist() == [*rings, *[100] * (12 - RIM)]
    assert out[0, 8, 8, 0] == rings[0]

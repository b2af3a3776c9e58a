"""What is given stands where it should, and is what was given."""

import numpy as np
import pytest

from soraxla.patching import unpatchify
from soraxla.sampling.tasks import FADE, cover, starting_with, with_first_frame
from soraxla.types import LatentGrid

GRID, PATCH = LatentGrid(t=3, h=4, w=6), (1, 2, 2)


def ramp(height, width):
    """Red grows to the right, green down, both in even steps over the picture."""
    y, x = (np.arange(side)[:, None] + 0.5 for side in (height, width))
    red = np.broadcast_to(255 * x.T / width, (height, width))
    green = np.broadcast_to(255 * y / height, (height, width))
    return np.stack([red, green, 0 * red], axis=-1).round().astype(np.uint8)


def test_a_picture_of_the_right_size_is_left_alone():
    picture = np.random.default_rng(0).integers(0, 256, (17, 33, 3), np.uint8)
    np.testing.assert_array_equal(cover(picture, 33, 17), picture)
    np.testing.assert_array_equal(cover(picture, 20, 17), picture[:, 6:26])
    np.testing.assert_array_equal(cover(picture, 33, 9), picture[4:13])


@pytest.mark.parametrize(
    ("height", "width"), [(90, 160), (480, 640), (64, 64), (300, 100), (7, 11)]
)
@pytest.mark.parametrize("size", [(64, 36), (50, 38), (16, 64)])
def test_the_middle_of_a_picture_covers_the_size(height, width, size):
    """What is left of a ramp is its middle, as much as fits the aspect."""
    out = cover(ramp(height, width), *size)
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
    assert cover(np.full((1, 20_000, 3), 9, np.uint8), 16, 8192).shape == (8192, 16, 3)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_known_latents_stand_at_the_beginning(k):
    first = np.random.default_rng(0).normal(size=(k, 4, 6, 5)).astype(np.float32)
    tokens, known = starting_with(first, GRID, PATCH)
    assert tokens.shape == (18, 20) and tokens.dtype == np.float32
    np.testing.assert_array_equal(known, np.arange(18) < 6 * k)
    clip = np.asarray(unpatchify(tokens, GRID, PATCH))
    np.testing.assert_array_equal(clip[:k], first)
    assert np.all(clip[k:] == 0)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 4, 4, 5), PATCH), ((4, 4, 6, 5), PATCH), ((1, 4, 6, 5), (3, 2, 2))],
)
def test_latents_that_do_not_begin_the_clip_are_refused(shape, patch):
    with pytest.raises(ValueError, match="do not begin") as error:
        starting_with(np.zeros(shape, np.float32), GRID, patch)
    assert "\n" not in str(error.value)


def test_the_given_frame_stays_and_its_difference_fades():
    video = np.full((8, 2, 2, 3), 100, np.uint8)
    given = np.full((2, 2, 3), 150, np.uint8)
    out = with_first_frame(video, given)
    np.testing.assert_array_equal(
        out[:, 0, 0, 0], [150, 140, 130, 120, 110, *[100] * 3]
    )
    assert len(out) > FADE and np.all(video == 100)
    np.testing.assert_array_equal(with_first_frame(video[:2], given), out[:2])


def test_a_fade_does_not_wrap_around():
    video = np.stack([np.full((1, 1, 3), v, np.uint8) for v in (10, 250)])
    out = with_first_frame(video, np.full((1, 1, 3), 255, np.uint8))
    assert out[:, 0, 0, 0].tolist() == [255, 255]

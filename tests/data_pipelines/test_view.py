"""The frames that a captioner sees, and their patches."""

import numpy as np
import pytest

from data_pipelines.view import View, ViewConfig, segment, view
from soraxla.core.errors import UserError


def numbered(count, size=(16, 24)):
    """Frames whose pixels are their number."""
    return (np.full((*size, 3), i % 256, np.uint8) for i in range(count))


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, [0]), (3, [0, 1, 2]), (9, [0, 3, 5, 8]), (33, [0, 11, 21, 32])],
)
def test_frames_are_evenly_spaced_from_the_first_to_the_last(count, shown):
    cfg = ViewConfig(frames=4, side=24, patch=8)
    found = view(numbered(count), 10.0, cfg)
    np.testing.assert_allclose(found.times * 10, shown, atol=1)
    np.testing.assert_array_equal(found.pixels[:, 0, 0, 0], np.rint(found.times * 10))
    assert found.times[0] == 0 and round(found.times[-1] * 10) == count - 1


def test_a_long_clip_keeps_few_frames_in_memory_and_is_still_even():
    cfg = ViewConfig(frames=4, side=8, patch=8)
    found = view(numbered(250, (8, 8)), 1.0, cfg)
    assert np.abs(np.diff(found.times) - 83).max() <= 8
    assert found.times[-1] == 249


@pytest.mark.parametrize(
    ("size", "square", "shape"),
    [
        ((16, 24), False, (16, 24)),
        ((32, 48), False, (16, 24)),
        ((19, 22), False, (16, 16)),
        ((32, 48), True, (24, 24)),
        ((8, 12), True, (24, 24)),
    ],
)
def test_a_frame_is_scaled_down_and_cropped_to_patches(size, square, shape):
    cfg = ViewConfig(frames=1, side=24, patch=8, square=square)
    assert view(numbered(1, size), 0.0, cfg).pixels.shape == (1, *shape, 3)


def test_small_frames_and_empty_clips_are_refused():
    cfg = ViewConfig(frames=1, side=24, patch=8)
    with pytest.raises(UserError, match="12x4 pixels, less than a patch of 8"):
        view(numbered(1, (4, 12)), 0.0, cfg)
    with pytest.raises(UserError, match="no frame"):
        view(iter(()), 1.0, cfg)
    with pytest.raises(UserError, match=r"view\.side is 20"):
        ViewConfig(side=20, patch=16, square=True)


def test_tokens_are_patches_in_the_order_of_time_height_and_width():
    cfg = ViewConfig(frames=2, side=8, patch=4)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 3), np.uint8)
    made = segment(View(pixels, np.array([0.0, 0.5])), cfg, np.array([[0, 5], [5, 1]]))
    assert made.tokens.shape == (4, 48)
    np.testing.assert_array_equal(
        made.positions, [[0, 0, 0], [0, 0, 1], [2, 0, 0], [2, 0, 1]]
    )
    patch = (made.tokens[3].reshape(3, 4, 4).transpose(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(patch, pixels[1, :, 4:], atol=1e-3)


def test_a_margin_shows_the_pixels_around_a_patch():
    """The border's pixels go on beyond it."""
    cfg = ViewConfig(frames=1, side=8, patch=4, margin=2)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 8, 3), np.uint8)
    made = segment(View(pixels, np.zeros(1)), cfg, np.array([[0, 1]]))
    assert made.tokens.shape == (2, 3 * 8 * 8)
    windows = (made.tokens.reshape(2, 3, 8, 8).transpose(0, 2, 3, 1) + 1) * 127.5
    around = np.pad(pixels[0], ((2, 2), (2, 2), (0, 0)), mode="edge")
    np.testing.assert_allclose(windows, [around[:, :8], around[:, 4:]], atol=1e-3)
    with pytest.raises(UserError, match=r"view\.margin is -1"):
        ViewConfig(margin=-1)

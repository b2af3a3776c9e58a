"""Clips that play side by side: their places, sizes and lengths."""

import numpy as np

from soraxla.media.video_grid import video_grid


def grey(value, frames, height, width):
    return np.full((frames, height, width, 3), value, np.uint8)


def test_clips_of_any_size_and_length_play_side_by_side():
    short = np.concatenate([grey(10, 1, 8, 8), grey(90, 1, 8, 8)])
    grid = video_grid([[short, grey(50, 4, 16, 32)], [grey(200, 1, 4, 4)]], height=16)
    assert grid.shape == (4, 40, 16 + 4 + 32 + 4, 3)
    assert grid[:, 8, 8, 0].tolist() == [10, 90, 90, 90]
    assert (grid[:, :16, 20:52] == 50).all() and (grid[:, 20:36, :16] == 200).all()
    assert len(set(grid[:, 36:].ravel())) == 1

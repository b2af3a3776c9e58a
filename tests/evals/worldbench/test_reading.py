"""The reader is right of the simulator's own frames, and of nothing reads nothing."""

import numpy as np
import pytest

from data_pipelines.worlds.occlusion import simulate
from soraxla.evals.worldbench.reading import NOTHING, read_shape

SIZE = {"width": 64, "height": 64, "frames": 33, "fps": 12.0}


@pytest.mark.parametrize("seed", range(12))
def test_colour_shape_and_direction_are_read(seed):
    episode = simulate(300_000 + seed, held_out=True, **SIZE)
    truth = tuple(str(episode.state[k][0]) for k in ("colour", "shape", "direction"))
    assert read_shape(episode.video) == truth
    if truth[2] in ("left", "right"):
        assert read_shape(episode.video[:, :, ::-1]).direction != truth[2]
        assert read_shape(episode.video[::-1]).direction != truth[2]


def test_where_nothing_moves_nothing_is_read():
    still = np.repeat(simulate(1, held_out=True, **SIZE).video[:1], 33, axis=0)
    assert read_shape(still) == NOTHING

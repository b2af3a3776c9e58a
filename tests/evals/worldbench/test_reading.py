"""The reader is right of the simulator's own frames, and of nothing reads nothing."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.worlds.occlusion import simulate
from soraxla.assets import worlds_model
from soraxla.checkpoints.load import load_vae
from soraxla.evals.worldbench import text
from soraxla.evals.worldbench.cases import FIRST_SEED
from soraxla.evals.worldbench.cases import SIZE as ASKED
from soraxla.evals.worldbench.reading import NOTHING, read_shape
from soraxla.generation.vae_streaming import decode_clip, encode_clip

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


@pytest.mark.slow
def test_97_of_100_clips_are_read_right_through_the_shipped_vae():
    vae = load_vae(Path(worlds_model()) / "vae")
    right = 0
    for seed in range(100):
        truth = text.case(FIRST_SEED + seed, ASKED).truth
        latents = encode_clip(vae.params, vae.model, truth.video)
        seen = decode_clip(vae.params, vae.model, latents)
        right += read_shape(seen) == text.requested(truth)
    assert right >= 97

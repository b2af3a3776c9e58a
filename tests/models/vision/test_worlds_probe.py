"""The worlds probe: its files, its input, and the truth that it is trained on."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from soraxla.core.errors import UserError
from soraxla.models.vision import worlds_probe as probe
from soraxla.tools.train_probe import CLIP, loss_of, scores, simulated, window
from tests.tiny import quick

TINY = probe.WorldsProbeConfig(width_divisor=16)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: probe.init(jax.random.key(0), TINY))
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def clips():
    return simulated(2, 7, 2)  # of `marks`


def test_weights_come_back_and_others_are_refused(params, tmp_path):
    tensors = {
        f"{name}.{part}": value
        for name, layer in params.items()
        for part, value in layer.items()
    }
    config = {"model_type": probe.KIND, "width_divisor": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    found, cfg = probe.load(tmp_path)
    assert cfg == TINY and probe.dimension(cfg) == 8
    jax.tree.map(np.testing.assert_array_equal, found, params)
    save_file({**tensors, "world.bias": np.zeros(4)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"world\.bias"):
        probe.load(tmp_path)


def test_frames_of_any_size_are_scaled(clips):
    video = clips["video"][0][: probe.FRAMES]
    small = probe.preprocess(video)
    np.testing.assert_array_equal(small, video.astype(np.float32) / 127.5 - 1)
    large = probe.preprocess(video.repeat(2, axis=1).repeat(2, axis=2))
    assert large.shape == small.shape and np.abs(large - small).mean() < 0.02


def test_a_window_has_the_truth_of_its_own_frames(clips):
    starts = np.array([0, CLIP - probe.FRAMES])
    batch = window(clips, np.array([0, 0]), starts)
    for i, start in enumerate(starts):
        own = slice(start, start + probe.FRAMES, 4)
        np.testing.assert_array_equal(batch.pixels[i, ::4], clips["video"][0, own])
        np.testing.assert_allclose(batch.xy[i], clips["xy"][0, own], rtol=1e-6)
        np.testing.assert_array_equal(batch.seen[i], clips["seen"][0, own])
    assert batch.seen[0].tolist() == [0, 1, 1, 1, 1]  # it comes in later
    moved = batch.xy[0, 4] - batch.xy[0, 1]
    np.testing.assert_allclose(batch.velocity[0], moved, rtol=1e-5)


def test_an_object_that_is_hidden_has_no_place(clips, params):
    """Its place and its velocity then cost nothing."""
    hidden = {**clips, "seen": np.zeros_like(clips["seen"])}
    batch = window(hidden, np.array([0, 1]), np.array([0, 0]))
    _, right = quick(loss_of)(params, batch)
    assert float(right["xy"]) == float(right["velocity"]) == 0.0
    assert not batch.moves.any() and np.isfinite(float(right["world"]))


def test_a_score_is_of_the_clips_that_have_its_truth(clips, monkeypatch):
    """`marks` has no shape of an object, so batches of it do not count for shapes."""
    many = {name: np.repeat(x, 32, axis=0) for name, x in clips.items()}
    many["shape"] = np.repeat([3, -1], 32)
    names = ("world", "count", "shape", "xy", "velocity", "rgb")

    def run(params, batch):
        return 0.0, dict.fromkeys(names, float((batch.shape >= 0).any()))

    monkeypatch.setattr("soraxla.parallel.compiler.jit", lambda f, **_: run)
    found = scores(None, many)
    assert found["shape"] == 1.0 and found["world"] == 0.5

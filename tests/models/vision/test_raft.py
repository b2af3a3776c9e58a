"""RAFT against torchvision's, and the motion metrics of its flow."""

import ast
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from soraxla.evals.metrics.metric import Clip
from soraxla.evals.metrics.motion import DynamicDegree, Motion
from soraxla.evals.optical_flow import OpticalFlow, load_flow, sampled
from soraxla.evals.replicas import Replicas
from soraxla.models.vision import raft
from soraxla.tools.convert_features import raft_tensors
from tests.golden.raft import DIVISOR, FILE, frames, weights
from tests.tiny import quick

TINY = raft.RAFTConfig(width_divisor=DIVISOR)


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    """A folder as the converter makes it, without torch."""
    shapes = [ast.literal_eval(str(shape)) for shape in golden["shapes"]]
    drawn = weights(dict(zip(golden["names"].tolist(), shapes, strict=True)))
    path = tmp_path_factory.mktemp("raft")
    config = {"model_type": raft.KIND, "width_divisor": DIVISOR}
    (path / "config.json").write_text(json.dumps(config))
    save_file(drawn, path / "model.safetensors")
    return path


@pytest.mark.slow
def test_the_flow_is_torchvision_s(golden, folder):
    params, cfg = raft.load(folder)
    assert cfg == TINY
    pictures = frames().astype(np.float32)
    flow = quick(lambda p, *x: raft.flow(p, *x, iterations=5))
    found = np.asarray(flow(params, pictures[:-1], pictures[1:]))[:, ::3, ::3]
    assert np.abs(golden["flow"]).mean() > 0.3
    scale = np.abs(golden["flow"]).max()
    np.testing.assert_allclose(found, golden["flow"], rtol=0, atol=1e-4 * scale)


def test_published_weights_have_these_names(tmp_path):
    """With a prefix, and norms that are stored twice."""
    cfg = raft.RAFTConfig()
    names = [f"{x}.{part}" for x in raft.layers(cfg) for part in ("weight", "bias")]
    norms = raft.norms(cfg).values()
    names += [f"{n}.{p}" for n in norms for p in ("weight", "bias")]
    names += [f"{n}.running_{p}" for n in norms for p in ("mean", "var")]
    state = {f"module.{name}": np.zeros(1, np.float32) for name in names}
    state["module.cnet.layer2.0.norm3.weight"] = np.zeros(1, np.float32)
    found = raft_tensors(state, tmp_path / "raft-things.pth")
    assert found.keys() == set(names) and len(names) == 2 * 47 + 4 * 15
    assert sum(np.prod(shape) for shape in raft.layers(cfg).values()) > 5e6


class Moving(OpticalFlow):
    """Frames that say how far they move: their grey value, in pixels."""

    def _speeds(self, frames):
        return frames[1:, 0, 0, :2].astype(float)


def clip(greys, fps, side=256):
    shape = (len(greys), side, side + 8, 3)
    video = np.zeros(shape, np.uint8) + np.array(greys, np.uint8)[:, None, None, None]
    return Clip(name="a", frames=video, fps=fps)


@pytest.mark.parametrize(
    ("greys", "side", "moves"),
    [
        ([7] * 5 + [0] * 11, 256, 1.0),  # four of sixteen pairs
        ([7] * 4 + [0] * 12, 256, 0.0),
        ([7] * 16, 512, 0.0),  # large frames must move further
        ([0, 0], 256, 1.0),  # as VBench: a quarter of two frames is none
        ([0], 256, 0.0),
    ],
)
def test_a_clip_moves_if_a_quarter_of_its_frames_do(greys, side, moves):
    flow = Moving(sha256="0", replicas=Replicas({}))
    assert DynamicDegree(flow=flow).row(clip(greys, 8.0, side)) == moves


def test_motion_does_not_depend_on_the_rate():
    """At 24 frames a second, every third frame is looked at."""
    flow = Moving(sha256="0", replicas=Replicas({}))
    slow, fast = clip([16] * 9, 8.0), clip([16, 0, 0] * 9, 24.0)
    assert len(sampled(fast)) == len(sampled(slow)) == 9
    for each in (slow, fast):
        assert Motion(flow=flow).row(each) == pytest.approx(8 * 16 / 256)
    assert Motion(flow=flow).row(clip([16] * 9, 12.0)) == pytest.approx(6 * 16 / 256)
    assert Motion(flow=flow).row(clip([16], None)) == 0.0


@pytest.mark.slow
def test_frames_of_any_size_have_speeds(folder):
    flow = load_flow(folder)
    video = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)
    found = flow.speeds(Clip(name="a", frames=video, fps=8.0))
    assert found.shape == (2, 2) and (found[:, 1] > found[:, 0]).all()

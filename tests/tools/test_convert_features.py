"""The converter of pickles, without torch: a stand-in reads the files."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from soraxla.core.errors import UserError
from soraxla.models.vision import i3d, inception
from soraxla.tools import convert_features
from soraxla.tools.convert_features import main, ordered

SMALL = {
    "a": (2, 3, 1, 1, 1),
    "b": (4, 2, 3, 3, 3),
    i3d.CLASSES: (5, 4, 1, 1, 1),
}


class Tensor:
    def __init__(self, value):
        self.value = value

    def numpy(self):
        return self.value


@pytest.fixture
def torch(monkeypatch):
    """Gives `import torch` a module whose files are what the test says."""
    fake = SimpleNamespace(state={}, script=None)

    def load(file, map_location, weights_only):
        assert map_location == "cpu" and weights_only  # no program of a pickle is run
        if fake.script is not None:
            raise RuntimeError("TorchScript")
        return {name: Tensor(value) for name, value in fake.state.items()}

    fake.load = load
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"0")
    return path


def state(shapes, conv):
    """A state dict of convolutions and batch norms; each value is its name's length."""
    found = {}
    for name, shape in shapes.items():
        found[f"{name}.{conv}.weight"] = np.full(shape, len(name), np.float32)
        if name == i3d.CLASSES:
            found[f"{name}.{conv}.bias"] = np.zeros(shape[0], np.float32)
            continue
        for i, part in enumerate(convert_features.NORM):
            found[f"{name}.bn.{part}"] = np.full(shape[0], i, np.float32)
        found[f"{name}.bn.num_batches_tracked"] = np.array(7)
    return found


def test_a_state_dict_becomes_a_folder_that_loads(torch, file, tmp_path, monkeypatch):
    shapes = {"Conv2d_1a_3x3": (4, 3, 3, 3), "Mixed_5b.branch1x1": (2, 4, 1, 1)}
    monkeypatch.setattr(inception, "layers", lambda cfg: shapes)
    torch.state = state(shapes, "conv") | {"fc.weight": np.zeros((3, 2), np.float32)}
    out = tmp_path / "inception"
    assert main(["inception", str(file), str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config == {"model_type": inception.KIND}
    assert len(load_file(out / "model.safetensors")) == 10  # no classes, no counters
    params, _ = inception.load(out)
    layer = params["Conv2d_1a_3x3"]
    assert layer["kernel"].shape == (3, 3, 3, 4)
    # The gain is 0, the shift 1, the mean 2 and the variance 3.
    assert not layer["kernel"].any() and (layer["bias"] == 1).all()


def test_a_state_dict_of_i3d_has_the_epsilon_of_its_code(
    torch, file, tmp_path, monkeypatch
):
    monkeypatch.setattr(i3d, "layers", lambda cfg: SMALL)
    torch.state = state(SMALL, "conv3d")
    assert main(["i3d", str(file), str(tmp_path / "i3d")]) == 0
    _, cfg = i3d.load(tmp_path / "i3d")
    assert cfg.batch_norm_eps == 1e-5


def test_what_cannot_be_converted_is_refused_in_one_line(
    torch, file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(inception, "layers", lambda cfg: {"a": (2, 3, 1, 1)})
    words = ["inception", str(file), str(tmp_path / "out")]

    def error():
        assert main(words) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out").exists()
        return line

    assert "holds another network than FID's Inception: 5 of 5 tensors" in error()
    torch.load = torch.jit = None
    assert "neither a state dict nor TorchScript" in error()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch is not installed" in error()
    words[1] = str(tmp_path / "none.pth")
    assert "none.pth: no such file" in error()


def test_scripted_tensors_are_named_by_their_order(file):
    found = state(SMALL, "conv3d")
    expected = {k: v for k, v in found.items() if "tracked" not in k}
    last = {k: found.pop(k) for k in list(found) if k.startswith(i3d.CLASSES)}
    odd = {f"m{i}.{k.split('.')[-1]}": v for i, (k, v) in enumerate(found.items())}
    odd = {f"c.{k.split('.')[-1]}": v for k, v in last.items()} | odd
    named = ordered(odd, file, SMALL)
    assert named.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(named[name], value)
    del odd["m0.weight"]
    with pytest.raises(UserError, match="holds 2 convolutions, expected the 3 of I3D"):
        ordered(odd, file, SMALL)


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 0.5])
def test_a_script_is_compared_with_the_converted_network(
    eps, torch, file, tmp_path, monkeypatch, capsys
):
    """Batch norm's ε is the one that gives the script's features, or none does."""
    monkeypatch.setattr(i3d, "layers", lambda cfg: SMALL)
    monkeypatch.setattr(i3d, "FRAMES", 2)
    monkeypatch.setattr(i3d, "SIDE", 4)

    def features(params, x):
        return params["a"]["kernel"].reshape(1, -1)

    class Script:
        def eval(self):
            return self

        def state_dict(self):
            return {name: Tensor(v) for name, v in weights.items()}

        def __call__(self, x, *, rescale, resize, return_features):
            assert x.shape == (1, 3, 2, 4, 4) and rescale and return_features
            kernel = weights["a.conv3d.weight"] / np.sqrt(0.01 + eps)
            return Tensor(kernel.transpose(2, 3, 4, 1, 0))

    weights = state(SMALL, "conv3d")
    weights["a.bn.weight"][:], weights["a.bn.running_var"][:] = 1, 0.01
    monkeypatch.setattr(i3d, "features", features)
    monkeypatch.setattr(i3d, "preprocess", lambda video: video.astype(np.float32))
    torch.script = Script()
    torch.jit = SimpleNamespace(load=lambda file, map_location: torch.script)
    torch.tensor = np.asarray
    torch.no_grad = lambda: pytest.MonkeyPatch.context()
    out = tmp_path / "i3d"
    if eps == 0.5:
        assert main(["i3d", str(file), str(out)]) == 2
        assert "the converted network's features differ by" in capsys.readouterr().err
        assert not out.exists()
    else:
        assert main(["i3d", str(file), str(out)]) == 0
        assert i3d.load(out)[1].batch_norm_eps == eps

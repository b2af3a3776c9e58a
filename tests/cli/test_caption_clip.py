"""A tiny CLIP, as its hub's folder, as a captioner's tower."""

import jax
import numpy as np
import pytest

from soraxla.checkpoints.load import load_captioner
from soraxla.cli.main import main
from soraxla.media.write import write_video
from soraxla.models.captioner import pretrained
from soraxla.models.captioner.model import TOWER
from tests.models.text.golden import write_encoder

ROOM = ("--set=pack.row_length=256", "--set=step.model.view.frames=2")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """The commands find one device of the eight."""
    devices = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices[:1])
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("weights") / "clip", "clip")


@pytest.fixture(scope="module")
def trained(clip, tmp_path_factory):
    """A captioner of three steps over the tower of the folder."""
    root = tmp_path_factory.mktemp("clip_captioner")
    (root / "media").mkdir()
    for name, grey in (("dark", 30), ("light", 200)):
        frames = np.full((5, 48, 64, 3), grey, np.uint8)
        write_video(root / "media" / f"{name}.mp4", frames, 8.0)
        (root / "media" / f"{name}.txt").write_text(f"a {name} clip")
    words = ["caption", "train", "--config", "captioner:debug", "--init", str(clip)]
    words += ["--source", str(root / "media"), "--workdir", str(root / "run")]
    assert main([*words, "--set=loop.steps=3", *ROOM]) == 0
    return root / "run"


@pytest.mark.slow
def test_the_tower_of_init_stays_and_the_rest_is_trained(clip, trained):
    params, tower = pretrained.load(clip)
    made = load_captioner(trained)
    assert made.model.pretrained == tower
    assert made.model.view == pretrained.view_of(tower, 2)
    jax.tree.map(np.testing.assert_array_equal, made.params[TOWER], params)
    assert made.model.words == (" a", " clip", " dark", " light")

"""The command run in process, and tiny models of random weights for it."""

import jax
import numpy as np
import pytest

from soraxla.checkpoints.model_folder import save_folder
from soraxla.cli.main import main
from soraxla.core.config import to_dict
from soraxla.diffusion.process import Process
from soraxla.media.write import write_video
from soraxla.models import dit, vae
from soraxla.models.dit.config import dit_config
from tests.generation import fake

# Every layer there is, as quick to compile as can be.
VAE = vae.VAEConfig(
    base_width=4,
    multipliers=(1, 1, 1, 1),
    res_blocks=1,
    latent_mean=(0.0,) * 16,
    latent_std=(1.0,) * 16,
)


@pytest.fixture(autouse=True)
def one_chip(monkeypatch, request):
    """The commands find one device of the eight, unless a test is marked `eight`."""
    devices = jax.devices()
    if "eight" not in request.keywords:
        monkeypatch.setattr(jax, "devices", lambda *_: devices[:1])


@pytest.fixture
def refusal(capsys):
    """Runs a command that must fail with status 2; returns its one line of stderr."""

    def run(*arguments: object) -> str:
        capsys.readouterr()  # the lines of commands before
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's own
            status = stop.code
        out, err = capsys.readouterr()
        assert status == 2, out + err
        lines = [
            line for line in err.splitlines() if line.strip() and "%|" not in line
        ]  # bars
        assert len(lines) == 1 and lines[0].startswith("soraxla"), err
        return lines[0]

    return run


@pytest.fixture
def without_network(monkeypatch):
    """Clips come from `tests.generation.fake`, which needs no compiling."""
    fake.replace_models(monkeypatch)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """An exported folder: the `debug` transformer and a VAE of width 4, untrained."""
    folder = tmp_path_factory.mktemp("weights") / "exported"
    dit_cfg = dit_config("debug")
    config = {
        "kind": "dit",
        "model": to_dict(dit_cfg),
        "process": to_dict(Process()),
        "text_encoder": "hashed",
    }
    save_folder(folder / "dit", random(dit, dit_cfg), config)
    config = {"kind": "vae", "model": to_dict(VAE)}
    save_folder(folder / "vae", random(vae, VAE), config)
    return folder


@pytest.fixture(scope="session")
def other_vae(tmp_path_factory):
    """A VAE folder of another hash than the checkpoint's."""
    folder = tmp_path_factory.mktemp("weights") / "other"
    params = jax.tree.map(lambda leaf: leaf * 0.5, random(vae, VAE))
    save_folder(folder, params, {"kind": "vae", "model": to_dict(VAE)})
    return folder


def random(model, cfg):
    """Parameters of the right shapes; cheaper than compiling the model's own init."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), cfg))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(scale=0.05, size=leaf.shape).astype(np.float32), shapes
    )


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """A clip of 9 frames, 48×32, and a picture, 32×32, with captions."""
    folder = tmp_path_factory.mktemp("media")
    y, x = np.mgrid[:32, :48] * 4.0
    frames = [np.stack([x + 5 * t, y, x * 0 + 90], -1) for t in range(9)]
    write_video(folder / "a.mp4", [f.astype(np.uint8) for f in frames], 12)
    write_video(folder / "b.png", [frames[0][:, :32].astype(np.uint8)], 1)
    (folder / "a.txt").write_text("colours that drift")
    (folder / "b.txt").write_text("colours that stand still")
    return folder

"""A VAE's training with every term: its settings, its record, its resume and meshes."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from soraxla.checkpoints.load import load_vae
from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.cli.train import configured
from soraxla.core.config import to_dict
from soraxla.media.write import write_video
from soraxla.parallel.mesh import MeshConfig, make_mesh, put_rows
from soraxla.training.finetune import _same_latents
from soraxla.training.loop import train
from soraxla.training.record import check_record, write_record
from soraxla.training.run import open_experiment
from soraxla.training.vae_experiment import VIDEO_AXES
from soraxla.training.vae_losses.adversarial import Adversarial
from soraxla.training.vae_losses.equivariance import Equivariance
from soraxla.training.vae_losses.losses import VAELosses
from soraxla.training.vae_losses.perceptual import Perceptual
from soraxla.training.vae_step import vae_init, vae_step
from tests import tiny
from tests.training.test_vae_losses import as_torchvision, tiny_features
from tests.training.test_vae_step import VAE

SETS = (
    "windows.shapes=[{'frames': 5, 'height': 16, 'width': 32, 'batch': 1}]",
    "step.losses.equivariance.weight=0.25",
    "step.losses.adversarial.width=2",
    "step.losses.adversarial.start_step=2",
    "loop.checkpoint_every=2",
    "loop.evaluators.preview=None",
)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 32, 3), dtype=np.uint8)
    write_video(folder / "a.mp4", list(frames), 12)
    return folder


@pytest.fixture
def start(tmp_path):
    """The folder of a VAE with other widths than the preset's."""
    model = replace(tiny.VAE, multipliers=(1, 2), temporal_down=(True,))
    config = {"kind": "vae", "model": to_dict(model)}
    save_folder(tmp_path / "vae", tiny.vae_params(model), config)
    return tmp_path / "vae"


@pytest.fixture
def opened(media, start, tmp_path, monkeypatch):
    """Opens a training of the decoder with every term, its network in `tmp_path`."""
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda *_: devices[:1])

    def opened(*sets, seed=0, workdir=None, init=start):
        file = tmp_path / f"vgg_{seed}.safetensors"
        save_file(as_torchvision(tiny_features(monkeypatch, seed)), file)
        sets = (*SETS, f"step.losses.perceptual.file={file}", *sets)
        config = configured("vae:decoder", list(sets))
        return open_experiment(config, data=media, workdir=workdir, init=init)

    return opened


def test_a_decoders_training_takes_its_model_from_the_start(opened, start):
    experiment = opened().experiment
    model = experiment.settings["step"]["model"]
    loaded = load_vae(start)
    assert model["multipliers"] == list(loaded.model.multipliers)
    assert model["latent_std"] == list(loaded.model.latent_std)
    state = experiment.state
    assert set(state.extra) == {"mean", "square", "steps", "discriminator"}
    assert set(state.params) == {"encoder", "decoder"}
    moments = jax.tree.leaves(state.opt)
    trained = jax.tree.leaves(state.params["decoder"])
    assert sum(x.size for x in moments) < 2.1 * sum(x.size for x in trained)


def test_another_decoder_leaves_the_latents_and_another_encoder_does_not(tmp_path):
    """A dataset of the first VAE fits a model with the second, not the third."""
    vae, folders = tiny.loaded_vae(), {}
    for name in ("none", "decoder", "encoder"):
        params = {
            part: jax.tree.map(lambda x: 1.5 * np.asarray(x), half)
            if part == name
            else half
            for part, half in vae.params.items()
        }
        folders[name] = tmp_path / name
        save_folder(folders[name], params, vae.config)
    made_by = folders["none"], sha256_of_folder(folders["none"])
    assert _same_latents(folders["decoder"], *made_by)
    assert not _same_latents(folders["encoder"], *made_by)
    # The dataset's folder may hold another VAE than the card says.
    assert not _same_latents(folders["decoder"], folders["none"], "0" * 64)


def test_a_decoder_alone_is_refused(opened):
    with pytest.raises(ValueError, match="keeps the encoder of another VAE; name its"):
        opened(init=None)


def test_other_weights_of_the_network_are_refused_under_any_name(opened, tmp_path):
    """And the same weights under another name are not."""
    first, run = opened().experiment, tmp_path / "run"
    write_record(run, first.settings, first.config, step=0)
    (tmp_path / "vgg_0.safetensors").rename(tmp_path / "moved.safetensors")
    moved = opened(f"step.losses.perceptual.file={tmp_path / 'moved.safetensors'}")
    check_record(run, moved.experiment.settings, first.config)
    other = opened(seed=1).experiment
    with pytest.raises(ValueError, match="used another VGG16"):
        check_record(run, other.settings, first.config)


@pytest.mark.slow
def test_a_training_with_every_term_goes_on_bit_for_bit(opened, start, tmp_path):
    """It stops before the discriminator's start, at it, and after it."""
    whole = opened("loop.steps=5")
    once = train(whole.experiment, whole.loop, tmp_path / "once")
    for steps in (1, 2, 3, 5):
        part = opened(f"loop.steps={steps}")
        parts = train(part.experiment, part.loop, tmp_path / "parts")
    assert once.skipped == 0
    for one, other in zip(*map(jax.tree.leaves, (once, parts)), strict=True):
        np.testing.assert_array_equal(one, other)
    # The folder is a VAE of the same latents, with another decoder.
    before, after = load_vae(start), load_vae(tmp_path / "parts")
    assert before.model == after.model
    for part, equal in (("encoder", True), ("decoder", False)):
        leaves = zip(
            *(jax.tree.leaves(vae.params[part]) for vae in (before, after)), strict=True
        )
        assert all(np.array_equal(a, b) for a, b in leaves) == equal


@pytest.mark.slow
def test_every_term_is_the_same_on_a_mesh(monkeypatch):
    """Clips and heights are cut; the losses and all gradients are those of one."""
    cfg = replace(
        VAE,
        losses=VAELosses(
            perceptual=Perceptual(),
            equivariance=Equivariance(),
            adversarial=Adversarial(width=2),
        ),
    )
    features = tiny_features(monkeypatch)
    state = tiny.quick(functools.partial(vae_init, cfg))()
    rng = np.random.default_rng(0)
    batch = {"video": rng.integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)}
    step = functools.partial(vae_step, cfg=cfg)
    one, expected = tiny.quick(step)(state, batch, features)
    mesh = make_mesh(MeshConfig(fsdp=2, context=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = put_rows(batch, axes=VIDEO_AXES, mesh=mesh)
        cut, found = tiny.quick(step)(state, placed, features)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
    # The gradients, as the optimizers' first moments have them.
    moments = (
        [s.opt[1][0].mu for s in (one, cut)],
        [s.extra["discriminator"]["opt"][0].mu for s in (one, cut)],
    )
    for trees in moments:
        leaves = list(zip(*map(jax.tree.leaves, trees), strict=True))
        atol = 1e-4 * max(np.abs(a).max() for a, _ in leaves)
        for a, b in leaves:
            np.testing.assert_allclose(b, a, rtol=0, atol=atol)

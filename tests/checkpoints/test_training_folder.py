"""Training folders as other code reads them: the EMA, and nothing else of the state."""

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from soraxla.checkpoints import model_folder
from soraxla.checkpoints.load import load_dit, load_vae, vae_as_folder
from soraxla.checkpoints.model_folder import (
    model_config,
    save_folder,
    sha256_of_folder,
)
from soraxla.checkpoints.training_folder import _base, restore_part
from soraxla.core.config import to_dict
from soraxla.core.errors import UserError
from soraxla.models.dit.config import DiTConfig
from soraxla.models.text.folder import settings as text_settings
from soraxla.models.vae.model import VAEConfig
from soraxla.training.dit_step import DiTStepConfig, dit_init
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_step import VAEStepConfig, vae_init
from tests import tiny
from tests.checkpoints.test_model_folder import assert_same, one_line, truncate
from tests.training import toy


def trained(workdir, kind, step, init, **extra):
    """A training folder whose EMA is not its parameters."""
    state = toy.zeros(init, step)
    ema = tiny.random_like(state.params, seed=5)
    return toy.folder_of(workdir, kind, step, state._replace(ema=ema, **extra))


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "vae"
    model = VAEConfig(
        base_width=2, latent_channels=2, multipliers=(1, 1), temporal_down=(True,)
    )
    moments = {"mean": np.float32([1.0, -2.0]), "square": np.float32([5.0, 4.25])}
    state = trained(
        workdir,
        "vae",
        VAEStepConfig(model=model, optim=OptimConfig(warmup_steps=1)),
        vae_init,
        extra=moments,
    )
    return workdir, state


@pytest.fixture(scope="module")
def dit_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "dit"
    model = DiTConfig(layers=2, width=12, heads=2, mlp_width=8, text_width=8)
    step = DiTStepConfig(model=model)
    return workdir, trained(workdir, "dit", step, dit_init)


@pytest.fixture(scope="module")
def loaded(vae_run, dit_run):
    """The model that is read from each training folder."""
    return load_vae(vae_run[0]), load_dit(dit_run[0])


@pytest.mark.slow
def test_a_vae_in_training_gives_its_average_and_statistics(vae_run, loaded):
    _, state = vae_run
    loaded, _ = loaded
    assert_same(loaded.params, state.ema)
    assert loaded.model.latent_mean == (1.0, -2.0)
    assert loaded.model.latent_std == (2.0, 0.5)
    assert loaded.config == {"kind": "vae", "model": to_dict(loaded.model)}


def test_a_transformer_in_training_gives_its_average(dit_run):
    workdir, state = dit_run
    loaded = load_dit(workdir)
    assert_same(loaded.params, state.ema)
    assert loaded.model.layers == 2
    assert loaded.config["text_encoder"] == "hashed:8"
    assert loaded.config["process"] == {
        "schedule": "rectified_flow",
        "prediction": "flow",
    }


@pytest.mark.slow
def test_what_is_exported_is_what_was_loaded(loaded, tmp_path):
    for read, load in zip(loaded, (load_vae, load_dit), strict=True):
        folder = tmp_path / load.__name__
        save_folder(folder, read.params, read.config)
        back = load(folder)
        assert_same(back.params, read.params)
        assert back.model == read.model
        assert back.config == {"format": 1, **read.config}


@pytest.mark.slow
def test_a_vae_in_training_has_a_folder_for_a_while(vae_run, loaded, tmp_path):
    with vae_as_folder(vae_run[0]) as (folder, sha256):
        assert sha256 == sha256_of_folder(folder)
        assert_same(load_vae(folder).params, loaded[0].params)
    assert not folder.exists()
    other = tiny.loaded_vae()
    save_folder(tmp_path / "vae", other.params, other.config)
    with vae_as_folder(tmp_path / "vae") as (folder, sha256):
        assert folder == tmp_path / "vae" and sha256 == sha256_of_folder(folder)
    assert folder.exists()


@pytest.mark.slow
def test_the_other_kind_of_training_folder_is_refused(vae_run, dit_run, tmp_path):
    for (workdir, _), load in ((vae_run, load_dit), (dit_run, load_vae)):
        with pytest.raises(ValueError, match=r"trains a .*, expected a") as error:
            load(workdir)
        one_line(error)
    broken = shutil.copytree(vae_run[0], tmp_path / "broken")
    truncate(broken / "train.json")
    with pytest.raises(ValueError, match=r"train\.json: damaged") as error:
        load_vae(broken)
    one_line(error)
    shutil.copy(vae_run[0] / "train.json", broken)
    shutil.rmtree(broken / "checkpoints")
    with pytest.raises(ValueError, match="no whole checkpoint") as error:
        load_vae(broken)
    one_line(error)
    assert not (broken / "checkpoints").exists()  # a reader makes no folder


def corrupt(workdir, *items):
    """Overwrites the arrays of some items of the newest state on the disk."""
    (state,) = (workdir / "checkpoints").glob("*/state")
    spec = {"driver": "ocdbt", "base": f"file://{state}/"}
    store = tensorstore.KvStore.open(spec).result()
    keys = [key.decode() for key in store.list().result()]
    chunks = [
        key
        for key in keys
        if re.match(rf"({'|'.join(items)})\b", key) and not key.endswith("/.zarray")
    ]
    assert chunks
    for chunk in chunks:
        store[chunk] = b"no array"


def test_a_model_is_read_without_the_optimizer(dit_run, tmp_path):
    """Its moments are twice the size of the model, and so are not even opened."""
    run, state = dit_run
    workdir = shutil.copytree(run, tmp_path / "run")
    corrupt(workdir, "opt", "params", "step")
    assert_same(load_dit(workdir).params, state.ema)
    with pytest.raises(UserError, match="cannot be restored, it is damaged"):
        restore_part(workdir, {"step": jax.eval_shape(lambda: state.step)}, ())


def bug(folder):
    return jnp.einsum("ab,bc->ac", jnp.ones((1, 2)), jnp.ones((3, 1)))


def mistake(folder):
    raise UserError(f"{folder}: is empty")


def test_a_bug_in_the_model_of_a_base_is_no_mistake_of_the_user(tmp_path):
    """A mistake in the base's folder is one line that names the adapters' folder."""
    settings = {"init": {"folder": "base", "sha256": ""}}
    with pytest.raises((ValueError, TypeError)) as error:
        _base(tmp_path, settings, bug)
    assert not isinstance(error.value, UserError)
    with pytest.raises(UserError, match=r"the base of the adapters in .*: base: is em"):
        _base(tmp_path, settings, mistake)


def test_a_bug_in_a_model_s_settings_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    """Nor is one in a text encoder's."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Broken:
        def __post_init__(self):
            bug(None)

    monkeypatch.setitem(model_folder._CLASSES, "dit", Broken)
    for read in (
        lambda: model_config(tmp_path, {"kind": "dit", "model": {}}),
        lambda: text_settings(Broken, {}, tmp_path),
    ):
        with pytest.raises((ValueError, TypeError)) as error:
            read()
        assert not isinstance(error.value, UserError)

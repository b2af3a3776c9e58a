"""Transformers loaded for sampling: kernels in the dtype of their products, sharded."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from soraxla.checkpoints.load import load_transformer
from soraxla.checkpoints.model_folder import save_folder
from soraxla.core.config import to_dict
from soraxla.files.hashing import sha256_of_tree
from soraxla.generation import pipeline
from soraxla.models import dit
from soraxla.models.dit.lora import LoRAConfig
from soraxla.parallel.mesh import MeshConfig, make_mesh
from soraxla.training.dit_step import DiTStepConfig, dit_init
from soraxla.training.finetune import open_start
from tests import tiny
from tests.training import toy

MODEL = replace(tiny.DIT, dtype="bfloat16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder whose transformer computes in bfloat16."""
    made = tmp_path_factory.mktemp("bfloat16")
    loaded, autoencoder = tiny.loaded_dit(), tiny.loaded_vae()
    config = {**loaded.config, "model": to_dict(MODEL)}
    save_folder(made / "dit", loaded.params, config)
    save_folder(made / "vae", autoencoder.params, autoencoder.config)
    return made


def assert_computed(found, stored):
    """The parameters are the stored ones, with kernels as `cast_kernels` casts them."""
    assert sha256_of_tree(found) == sha256_of_tree(
        dit.cast_kernels(jax.device_get(stored), MODEL)
    )
    kernel = found["blocks"]["self_attn"]["q"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    assert found["time_in"]["kernel"].dtype == jnp.float32


@pytest.mark.slow
def test_a_pipeline_holds_kernels_in_the_dtype_of_their_products(folder):
    """The parameters of a model folder are sharded over the devices of the mesh too."""
    stored = load_transformer(folder).params
    loaded = pipeline.load(folder, mesh=make_mesh(MeshConfig(fsdp=8)))
    assert_computed(loaded.dit.params, stored)
    kernel = loaded.dit.params["blocks"]["self_attn"]["q"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert not kernel.sharding.is_fully_replicated


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [LoRAConfig(rank=2), None])
def test_a_training_is_sampled_with_computed_kernels(folder, tmp_path, adapters):
    """Adapters are added to their base in float32, and the sum is cast."""
    step = DiTStepConfig(model=MODEL, lora=adapters)
    state = toy.zeros(dit_init, step)
    state = state._replace(ema=tiny.random_like(state.params, seed=5))
    init = {"init": open_start(folder).record()} if adapters else {}
    toy.folder_of(tmp_path / "run", "dit", step, state, **init)
    stored = load_transformer(tmp_path / "run").params
    assert jax.tree.all(jax.tree.map(lambda a: a.dtype == jnp.float32, stored))
    assert_computed(load_transformer(tmp_path / "run", computed=True).params, stored)

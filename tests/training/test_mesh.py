"""A training step does not know what mesh it runs on."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from soraxla.diffusion.process import Purpose
from soraxla.models import dit
from soraxla.packing.pack import Segment, pack
from soraxla.parallel.collectives import collectives
from soraxla.parallel.mesh import (
    PACKED_AXES,
    MeshConfig,
    make_mesh,
    one_device,
    partition_spec,
    put_rows,
    put_tree,
)
from soraxla.training.dit_experiment import check_mesh
from soraxla.training.dit_step import dit_error, dit_init, dit_step
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.saving import Checkpoints
from tests import tiny
from tests.training import mesh_run, toy

# Quick to compile: the refiner and remat have tests in tests/models/dit.
MODEL = replace(mesh_run.CFG.model, remat="none", text_refiner_layers=0)
CFG = replace(mesh_run.CFG, model=MODEL)


def clip(tokens, visit):
    rng = np.random.default_rng(visit)
    return Segment(
        tokens=rng.normal(size=(tokens, 16)).astype(np.float32),
        positions=rng.integers(0, 6, size=(tokens, 3)).astype(np.float32),
        text=rng.normal(size=(2, 8)).astype(np.float32),
        visit=visit,
        shift=1.0,
    )


@pytest.fixture(scope="module")
def params():
    """Random weights, as NumPy arrays."""
    shapes = jax.eval_shape(functools.partial(dit_init, CFG)).params
    return jax.tree.map(np.asarray, tiny.random_like(shapes))


@pytest.fixture(scope="module")
def batch():
    """Eight rows: short clips, and one as long as a row, which every axis cuts."""
    rows = [[clip(5 + i, i), clip(9, 8 + i)] for i in range(7)]
    return pack([*rows, [clip(32, 99)]], mesh_run.SPEC)


def on_mesh(function, params, batch, mesh, out_shardings=None):
    """Returns `function` of the loss, applied over the mesh."""

    def loss(params, batch):
        times = jnp.broadcast_to(jnp.linspace(0.1, 0.9, 6), batch.visit.shape)
        total, weight = dit_error(params, batch, times, cfg=CFG, purpose=Purpose.NOISE)
        return total / weight

    placed = put_tree(params, dit.RULES, mesh)
    with jax.set_mesh(mesh):
        run = tiny.quick(function(loss), out_shardings=out_shardings)
        return run(placed, put_rows(batch, PACKED_AXES, mesh))


def loss_and_gradient(params, batch, mesh):
    """Both over the mesh, the gradient cut as the parameters are."""
    placed = put_tree(params, dit.RULES, mesh)
    out = (None, jax.tree.map(lambda x: x.sharding, placed))
    return on_mesh(jax.value_and_grad, params, batch, mesh, out)


@pytest.fixture(scope="module")
def alone(params, batch):
    return loss_and_gradient(params, batch, one_device())


def test_every_axis_gives_the_loss_of_one_device(params, batch):
    meshes = one_device(), make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
    one, cut = (on_mesh(lambda loss: loss, params, batch, mesh) for mesh in meshes)
    np.testing.assert_allclose(cut, one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        {"fsdp": 2, "context": 2, "tensor": 2},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"context": 8},  # more than there are heads: ring
        {"fsdp": 2, "context": 4},  # as many heads: Ulysses
    ],
    ids=str,
)
def test_every_axis_gives_the_loss_and_gradient_of_one_device(
    params, batch, alone, mesh
):
    loss, grads = loss_and_gradient(params, batch, make_mesh(MeshConfig(**mesh)))
    np.testing.assert_allclose(loss, alone[0], rtol=1e-5)
    one, other = map(jax.tree.leaves, (alone[1], grads))
    atol = 4e-6 * max(np.abs(leaf).max() for leaf in one)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=atol)
    kernel = grads["blocks"]["mlp"]["in_proj"]["kernel"]
    parts = mesh.get("fsdp", 1) * mesh.get("context", 1) * mesh.get("tensor", 1)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size


def test_a_checkpoint_of_eight_devices_is_restored_on_four(tmp_path):
    """To the bit, and cut as the new mesh cuts it."""
    rules = (("layer.w", ("embed",)), (".*", ()))
    fresh = jax.tree.map(np.asarray, toy.init(304))
    fresh = fresh._replace(params={"layer": {"w": np.arange(304, dtype=np.float32)}})
    eight = make_mesh(MeshConfig(fsdp=8))
    four = make_mesh(MeshConfig(fsdp=2, context=2), jax.devices()[2:6])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, put_tree(fresh, rules, eight), {"number": 3})
    checkpoints.close()
    target = put_tree(fresh, rules, four)
    checkpoints = Checkpoints(tmp_path)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), target
    )
    found, plan = checkpoints.restore(abstract)
    checkpoints.close()
    assert plan == {"number": 3}
    for a, b, c in zip(*map(jax.tree.leaves, (found, fresh, target)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == c.sharding
    assert len(found.params["layer"]["w"].sharding.device_set) == 4


@pytest.mark.slow
def test_accumulation_sends_no_row_to_another_device():
    """Devices with whole parameters exchange only sums."""
    mesh = make_mesh(MeshConfig(data=8))
    batch = pack([[clip(4, 0)]] * 16, mesh_run.SPEC)
    cut = jax.tree.map(
        lambda x, axes: NamedSharding(mesh, partition_spec(x.shape, axes, mesh)),
        batch,
        PACKED_AXES,
    )
    step = jax.jit(
        functools.partial(dit_step, cfg=mesh_run.CFG, accumulate=2),
        in_shardings=(NamedSharding(mesh, PartitionSpec()), cut),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = jax.eval_shape(functools.partial(dit_init, mesh_run.CFG))
    with jax.set_mesh(mesh):
        text = step.lower(state, batch).compile().as_text()
    assert {c.kind for c in collectives(text or "")} == {"all-reduce"}


def test_rows_are_divided_by_parts_and_devices():
    cfg = DiTTrainingConfig(
        step=mesh_run.CFG,
        pack=mesh_run.SPEC,
        loop=LoopConfig(steps=1),
        batch_rows=12,
        accumulate=2,
    )
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    with pytest.raises(ValueError, match=r"accumulate = 2 parts.*multiple of 8, or"):
        check_mesh(cfg, mesh)
    assert len(check_mesh(replace(cfg, batch_rows=16), mesh)) == 16
    with pytest.raises(ValueError, match="accumulate is 0, expected at least 1"):
        replace(cfg, accumulate=0)

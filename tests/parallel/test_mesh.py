"""Two tables place every array, and say so where they cannot."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from soraxla.core.trees import named_leaves
from soraxla.models import dit
from soraxla.models.dit.config import SIZES, dit_config
from soraxla.models.text import t5
from soraxla.parallel.mesh import (
    REPLICATED,
    MeshConfig,
    constrain,
    current_shardings,
    host_rows,
    make_mesh,
    param_shardings,
    put_rows,
)
from soraxla.training.dit_step import DiTStepConfig, dit_init
from soraxla.training.optim import OptimConfig
from tests.marks import slow

ALL = {"fsdp": 2, "context": 2, "tensor": 2}


def mesh(**sizes):
    return make_mesh(MeshConfig(**sizes))


def specs(abstract, rules, **sizes):
    shardings = param_shardings(abstract, rules, mesh(**sizes))
    return {name: s.spec for name, s in named_leaves(shardings).items()}


GATED = dit_config(
    "xl", input_gate=True, local_layers=2, forecast_layers=1, latent_channels=96
)


@pytest.mark.parametrize(
    "model",
    [SIZES["debug"], *slow(GATED, *SIZES.values())],
    ids=["debug", "gated", *(f"every-{size}" for size in SIZES)],
)
def test_every_size_matches_every_rule_and_nothing_large_is_whole(model):
    state = jax.eval_shape(lambda: dit_init(DiTStepConfig(model=model)))
    found = specs(state, dit.RULES, **ALL)
    for name, leaf in named_leaves(state).items():
        cut = [axis for axis in found[name] if axis]
        assert cut or leaf.size <= model.layers * 6 * model.mlp_width, name
        if leaf.ndim == 3 and name.endswith("kernel"):
            assert len(cut) == 2, name


def test_optimizer_and_average_lie_as_the_parameters_do():
    state = jax.eval_shape(lambda: dit_init(DiTStepConfig(model=SIZES["debug"])))
    found = specs(state, dit.RULES, **ALL)
    kernel = "blocks.self_attn.o.kernel"
    alike = {spec for name, spec in found.items() if name.endswith(kernel)}
    assert alike == {P((), ("tensor",), ("fsdp", "context"))}
    assert sum(name.endswith(kernel) for name in found) == 4


def test_what_muon_keeps_beside_moments_is_whole():
    step = DiTStepConfig(
        model=SIZES["debug"], optim=OptimConfig(muon_learning_rate=1e-2)
    )
    found = specs(jax.eval_shape(lambda: dit_init(step)), dit.RULES, **ALL)
    own = [spec for name, spec in found.items() if name.endswith("ns_coeffs")]
    assert own and not any(any(spec) for spec in own)
    moment = "muon.inner_state.0.mu.blocks.cross_attn.q.kernel"
    (cut,) = (spec for name, spec in found.items() if name.endswith(moment))
    assert cut == P((), ("fsdp", "context"), ("tensor",))


def test_text_encoders_are_cut_too():
    cfg = t5.UMT5Config(vocab_size=32, d_model=16, d_ff=32, num_layers=2, num_heads=2)
    abstract = jax.eval_shape(lambda: t5.init(jax.random.key(0), cfg))
    found = specs(abstract, t5.RULES, **ALL)
    assert found["embed.embedding"] == P((), ("fsdp", "context"))
    assert found["blocks.mlp_gate.kernel"] == P((), ("fsdp", "context"), ("tensor",))


def test_what_no_rule_matches_and_a_rule_for_nothing_are_errors():
    tree = {"a": {"kernel": jnp.zeros((4, 4))}}
    with pytest.raises(ValueError, match=r"no sharding rule matches parameter 'a.kern"):
        param_shardings(tree, ((r"b\.kernel", ("embed", None)),), mesh())
    with pytest.raises(ValueError, match="'c' matches no parameter"):
        param_shardings(tree, ((r".*", ()), ("c", ())), mesh())


def test_a_pattern_is_of_whole_names():
    tree = {"other_a": {"kernel": jnp.zeros((8, 8))}}
    with pytest.raises(ValueError, match="no sharding rule"):
        param_shardings(tree, ((r"a\.kernel", ("embed", None)),), mesh())


@pytest.mark.parametrize(
    ("width", "sizes", "data", "fsdp"),
    [
        (128, {}, 1, 8),  # 16 rows of a tile each
        (64, {}, 2, 4),
        (96, {}, 4, 2),  # of 4, one has 24 rows: no whole tiles
        (64, {"context": 2}, 2, 2),
        (64, {"data": 1}, 1, 8),
        (24, {}, 1, 8),  # none has whole tiles
    ],
)
def test_parameters_are_cut_into_whole_tiles(width, sizes, data, fsdp):
    found = make_mesh(MeshConfig(**sizes), width=width).shape
    assert (found["data"], found["fsdp"]) == (data, fsdp)


def test_the_mesh_takes_all_devices_or_says_what_is_wrong():
    assert dict(mesh().shape) == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    assert mesh(tensor=2, data=2).shape["fsdp"] == 2
    assert mesh(fsdp=2).shape["data"] == 4
    with pytest.raises(ValueError, match="has 6 devices, but there are 8"):
        mesh(fsdp=3, tensor=2)
    with pytest.raises(ValueError, match=r"has 9 devices, but there are 8"):
        mesh(tensor=9)
    with pytest.raises(ValueError, match=r"mesh.data is 0, expected at least 1"):
        mesh(data=0)


@dataclass(frozen=True)
class Chip:
    """A device as a mesh sees it."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "chip"


def test_slices_are_joined_along_data():
    """Parameters are sharded within a slice, whose network is fast."""
    chips = [Chip(i, i // 4) for i in (7, 0, 4, 1, 5, 2, 6, 3)]
    found = make_mesh(devices=chips, width=128)
    assert (found.shape["data"], found.shape["fsdp"]) == (2, 4)
    for number, part in enumerate(found.devices):
        assert {chip.slice_index for chip in part.ravel()} == {number}
    assert make_mesh(MeshConfig(fsdp=2), chips).shape["data"] == 4
    for settings in (MeshConfig(fsdp=8), MeshConfig(data=1)):
        with pytest.raises(ValueError, match="2 TPU slices do not divide"):
            make_mesh(settings, chips)


def test_rows_that_do_not_divide_are_refused_with_the_nearest_that_do():
    assert host_rows(16, mesh()) == list(range(16))
    with pytest.raises(ValueError, match=r"batch_rows is 11.*8 devices.*set it to 8"):
        host_rows(11, mesh())
    with pytest.raises(ValueError, match=r"clips is 13.*set it to 16"):
        host_rows(13, mesh(), what="clips")


def test_a_host_puts_its_own_rows_where_they_belong(monkeypatch):
    """The devices of two hosts take turns along the rows."""
    on = mesh(fsdp=4, context=2)
    whole = np.arange(8 * 6.0).reshape(8, 6)
    own = [0, 1, 4, 5]
    monkeypatch.setattr("soraxla.parallel.mesh.host_rows", lambda parts, _: [0, 2])
    asked = {}

    def placed(shape, cut, part):
        for device, index in cut.devices_indices_map(shape).items():
            if index[0].start in own:
                asked[device] = (part(index), whole[index])
        return jnp.zeros(shape)

    monkeypatch.setattr(jax, "make_array_from_callback", placed)
    made = put_rows({"x": whole[own]}, {"x": ("batch", "tokens")}, on)
    assert made["x"].shape == whole.shape
    assert len(asked) == 4
    for found, expected in asked.values():
        np.testing.assert_array_equal(found, expected)


def test_a_batch_is_cut_by_rows_and_tokens():
    local = np.arange(8 * 6.0).reshape(8, 6)
    placed = put_rows(
        {"x": local}, {"x": ("batch", "tokens")}, mesh(fsdp=4, context=2)
    )["x"]
    np.testing.assert_array_equal(placed, local)
    assert placed.addressable_shards[0].data.shape == (2, 3)


def test_without_a_mesh_nothing_is_constrained_and_one_device_holds_all():
    x = jnp.zeros((8, 4))
    assert constrain(x, "batch", None) is x
    tree = current_shardings({"a": x}, REPLICATED)
    assert tree["a"].device_set == {jax.devices()[0]}


def test_a_constraint_cuts_and_skips_what_does_not_divide():
    def f(x):
        return constrain(x, "batch", "tokens")

    with jax.set_mesh(mesh(fsdp=4, context=2)):
        even = jax.jit(f)(jnp.zeros((8, 6)))
        odd = jax.jit(f)(jnp.zeros((3, 6)))
    assert even.sharding.shard_shape((8, 6)) == (2, 3)
    assert odd.sharding.shard_shape((3, 6)) == (3, 3)

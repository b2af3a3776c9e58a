"""Transfers are counted as often as the loops around them go round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from soraxla.parallel.collectives import Collective, collectives
from soraxla.parallel.mesh import MeshConfig, make_mesh


@pytest.fixture(scope="module")
def text():
    """A scan over five layers whose weights are cut over eight devices."""
    mesh = make_mesh(MeshConfig(fsdp=8))
    cut = NamedSharding(mesh, P(None, "fsdp", None))
    rows, whole = NamedSharding(mesh, P("fsdp", None)), NamedSharding(mesh, P())

    def f(w, x):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, whole)
            return jnp.tanh(x @ w), None

        x, _ = jax.lax.scan(layer, x, w)
        return jnp.sum(x)

    w, x = np.zeros((5, 64, 32 * 2), np.float32), np.zeros((16, 64), np.float32)
    compiled = jax.jit(f, in_shardings=(cut, rows)).lower(w, x).compile()
    return compiled.as_text()


def test_those_in_a_loop_count_once_a_round(text):
    (gather,) = (c for c in collectives(text) if c.kind == "all-gather")
    assert gather == Collective("all-gather", "f32[1,64,64]", True, 5, 5 * 4 * 64 * 64)
    (reduce,) = (c for c in collectives(text) if c.kind == "all-reduce")
    assert (reduce.shape, reduce.in_loop, reduce.calls) == ("f32[]", False, 1)


def test_the_largest_is_first_and_an_asynchronous_one_counts_once():
    lines = (
        "ENTRY %main (p: f32[8]) -> f32[64] {",
        '  %k = f32[8] custom-call(%p), backend_config={"kernel": {',
        "}}",
        "  %a = (f32[8], f32[64]) all-gather-start(%p), channel_id=1",
        "  %b = f32[64] all-gather-done(%a)",
        "  %c = (bf16[4,2], bf16[4,2]) collective-permute-start(%p), channel_id=2",
        "  %f = ((f32[9], s32[3]), (f32[9], s32[3]), u32[], u32[]) "
        "collective-permute-start(%p, %q), channel_id=2",
        "  %d = f32[1024] all-reduce(%p), channel_id=3, to_apply=%add",
        "  %e = f32[1024] all-reduce(%p), channel_id=3, to_apply=%add",
        "}",
    )
    found = [(c.kind, c.shape, c.bytes) for c in collectives("\n".join(lines))]
    assert found == [
        ("all-reduce", "f32[1024]", 4096),
        ("all-gather", "f32[64]", 256),
        ("collective-permute", "f32[9]", 36),
        ("collective-permute", "bf16[4,2]", 16),
        ("collective-permute", "s32[3]", 12),
    ]

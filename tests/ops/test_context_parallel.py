"""Attention over a mesh is the dense one, values and gradients, however cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.ops.attention import attention
from soraxla.ops.context_parallel import over_mesh
from soraxla.ops.engines import reference
from soraxla.ops.engines.engine import Engine
from soraxla.parallel.mesh import MeshConfig, current_mesh, make_mesh
from tests.marks import slow
from tests.ops import exact

B, L, N, K = 2, 64, 4, 8
TENSOR = {"data": 2, "fsdp": 1, "tensor": 4}
ULYSSES = {"fsdp": 2, "context": 4}  # four heads
RING = {"context": 8}
RING_OF_TWO = {"context": 4, "tensor": 2}  # two heads on each device
ALL_AXES = {"fsdp": 2, "context": 2, "tensor": 2}


def segment_ids(rng, segments):
    """Ids 1…n of random lengths, then padding."""
    cuts = np.sort(rng.choice(np.arange(1, L), segments, replace=False))
    ids = np.zeros(L, np.int32)
    for i, (start, stop) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True)):
        ids[start:stop] = i + 1
    return ids


@pytest.fixture(scope="module")
def inputs():
    """Rows of 1 and 9 segments, which cross the cuts at every size of mesh."""
    rng = np.random.default_rng(0)
    q, k, v, grad = (rng.normal(size=(B, L, N, K)).astype(np.float32) for _ in range(4))
    ids = np.stack([segment_ids(rng, n) for n in (1, 9)])
    bias = rng.normal(size=(B, L)).astype(np.float32)
    return q, k, v, ids, bias, grad


@pytest.fixture(scope="module")
def expected(inputs):
    """The output and the gradients of q, k, v and the bias."""
    q, k, v, ids, bias, grad = inputs
    out, _, *grads = exact.attend(q, k, v, ids, ids, bias, grad)
    return out, *grads


def ours(q, k, v, ids, bias, grad, *, axes):
    def weighted(q, k, v, bias):
        out = attention(
            q, k, v, q_segment_ids=ids, kv_segment_ids=ids, kv_bias=bias, axes=axes
        )
        return jnp.sum(out * grad), out

    grads, out = jax.grad(weighted, argnums=(0, 1, 2, 3), has_aux=True)(q, k, v, bias)
    return out, *grads


@pytest.mark.parametrize(
    ("mesh", "keys"),
    [
        (RING, "tokens"),
        *slow(
            *((mesh, "tokens") for mesh in (TENSOR, ULYSSES, RING_OF_TWO, ALL_AXES)),
            *((m, "text") for m in (TENSOR, ULYSSES, RING, RING_OF_TWO, ALL_AXES)),
        ),
    ],
    ids=str,
)
def test_any_cut_is_the_dense_one(inputs, expected, mesh, keys):
    with jax.set_mesh(make_mesh(MeshConfig(**mesh))):
        found = jax.jit(functools.partial(ours, axes=("tokens", keys)))(*inputs)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= 2e-6 * np.abs(b).max()


def test_the_ring_passes_on_what_no_segment_shares():
    """A share of keys of other segments never meets the engine, on either way."""
    parts = 8
    ids = np.repeat(np.arange(1, parts + 1, dtype=np.int32), L // parts)[None]
    x = np.ones((1, L, 1, K), np.float32)

    def poisoned(function):
        def run(q, k, v, q_ids, kv_ids, *rest):
            foreign = jnp.min(q_ids) != jnp.min(kv_ids)
            made = function(q, k, v, q_ids, kv_ids, *rest)
            return jax.tree.map(lambda x: jnp.where(foreign, jnp.nan, x), made)

        return run

    with jax.set_mesh(make_mesh(MeshConfig(context=parts, fsdp=1))):
        mesh = current_mesh()
        engine = Engine(poisoned(reference.forward), poisoned(reference.backward))
        around = over_mesh(engine, mesh, ("tokens", "tokens"), x.shape, x.shape)
        out, lse = jax.jit(around.forward)(x, x, x, ids, ids, None)
        saved = lse, jnp.zeros_like(lse), x
        grads = jax.jit(around.backward)(x, x, x, ids, ids, None, *saved)
    assert all(np.isfinite(y).all() for y in (out, lse, *grads[:3]))


def test_keys_that_are_cut_where_queries_are_not_are_refused():
    """Gradients of such keys would be added up once a device."""
    with jax.set_mesh(make_mesh(MeshConfig(context=8, fsdp=1))):
        mesh, q, kv = current_mesh(), (1, 12, 1, K), (1, 16, 1, K)
        with pytest.raises(
            ValueError, match="16 keys are sharded along context and 12"
        ):
            over_mesh(reference.ENGINE, mesh, ("tokens", "tokens"), q, kv)


def test_rows_and_heads_that_do_not_divide_are_whole_everywhere(inputs):
    q, k, v, ids, *_ = (x[:1] for x in inputs)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, context=1, tensor=4))):
        three = [x[:, :, :3] for x in (q, k, v)]
        out = jax.jit(lambda *x: attention(*x, q_segment_ids=ids, kv_segment_ids=ids))(
            *three
        )
    expected, _ = exact.attend(*three, ids, ids)
    np.testing.assert_allclose(out, expected, atol=2e-6)

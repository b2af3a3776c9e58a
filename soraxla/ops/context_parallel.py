"""An engine of packed attention made into one over a mesh of devices.

Rows and heads need no help: a device computes those it has. The tokens of a row, cut
along `context`, meet in one of two ways. *Ulysses* (arXiv 2309.14509) trades tokens for
heads and back, where the heads divide. *Ring* (arXiv 2310.01889) sends keys and values
round, a share a hop, and merges what the hops give by their logsumexp.

Each is an engine again, forward and backward, so that no gradient is taken through any
of it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from soraxla.core.errors import UserError
from soraxla.ops.engines.engine import LOWEST, Engine
from soraxla.parallel.mesh import axis_size, dividing_axes


def over_mesh(
    engine: Engine, mesh: AbstractMesh, axes: tuple[str, str], q_shape, kv_shape
) -> Engine:
    """The engine for whole arrays of these shapes, (B, L, N, K) and (B, M, N, K).

    Args:
        axes: logical axes of the queries' and of the keys' tokens.
    """
    rows, heads = (
        dividing_axes(q_shape[0], "batch", mesh),
        dividing_axes(q_shape[2], "heads", mesh),
    )
    q_cut = dividing_axes(q_shape[1], axes[0], mesh)
    kv_cut = dividing_axes(kv_shape[1], axes[1], mesh)
    # Queries and keys are cut alike, or keys are whole on every device that needs them.
    if axis_size(mesh, kv_cut) > 1 and kv_cut != q_cut:
        raise UserError(
            f"{kv_shape[1]} keys are cut along {' x '.join(kv_cut)} and {q_shape[1]} "
            "queries are not: make both a multiple of the devices there"
        )
    parts = axis_size(mesh, kv_cut)
    if parts > 1:
        local_heads = q_shape[2] // axis_size(mesh, heads)
        if local_heads % parts == 0:
            engine = ulysses(engine, kv_cut)
        else:
            engine = ring(engine, kv_cut, parts)
    shared = () if kv_cut else q_cut

    def backward(*inputs):
        grad_q, grad_k, grad_v, grad_bias = engine.backward(*inputs)
        if axis_size(mesh, shared) > 1:
            grad_k, grad_v = jax.lax.psum((grad_k, grad_v), shared)
        if grad_bias is not None:
            grad_bias = jax.lax.psum(grad_bias, (*shared, *heads))
        return grad_q, grad_k, grad_v, grad_bias

    q, kv = PartitionSpec(rows, q_cut, heads), PartitionSpec(rows, kv_cut, heads)
    q_ids, kv_ids = PartitionSpec(rows, q_cut), PartitionSpec(rows, kv_cut)
    inputs = (q, kv, kv, q_ids, kv_ids, kv_ids)
    local = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return Engine(
        forward=local(engine.forward, in_specs=inputs, out_specs=(q, q)),
        backward=local(
            backward, in_specs=(*inputs, q, q, q), out_specs=(q, kv, kv, kv_ids)
        ),
    )


def ulysses(engine: Engine, axes: tuple[str, ...]) -> Engine:
    """Each device has all tokens of a part of its heads while the engine computes."""

    def to_heads(*xs):  # (B, L/c, N, ...) to (B, L, N/c, ...)
        return (jax.lax.all_to_all(x, axes, 2, 1, tiled=True) for x in xs)

    def to_tokens(*xs):
        return (jax.lax.all_to_all(x, axes, 1, 2, tiled=True) for x in xs)

    def whole(*xs):
        return (
            None if x is None else jax.lax.all_gather(x, axes, axis=1, tiled=True)
            for x in xs
        )

    def forward(q, k, v, *ids_and_bias):
        out, lse = engine.forward(*to_heads(q, k, v), *whole(*ids_and_bias))
        return tuple(to_tokens(out, lse))

    def backward(q, k, v, q_ids, kv_ids, kv_bias, *saved):
        ids_and_bias = whole(q_ids, kv_ids, kv_bias)
        grads = engine.backward(*to_heads(q, k, v), *ids_and_bias, *to_heads(*saved))
        grad_bias = grads[3]
        if grad_bias is not None:
            grad_bias = jax.lax.psum_scatter(
                grad_bias, axes, scatter_dimension=1, tiled=True
            )
        return *to_tokens(*grads[:3]), grad_bias

    return Engine(forward, backward)


def ring(engine: Engine, axes: tuple[str, ...], parts: int) -> Engine:
    """Keys and values of the other devices come by; a share of other segments is
    passed on unseen. Sums are fp32."""

    def pass_on(tree):
        pairs = [(i, (i + 1) % parts) for i in range(parts)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, pairs), tree)

    def forward(q, k, v, q_ids, kv_ids, kv_bias):
        def hop(carry, _):
            (out, lse), (k, v, kv_ids, kv_bias) = carry
            more, more_lse = jax.lax.cond(
                _meet(q_ids, kv_ids),
                lambda: engine.forward(q, k, v, q_ids, kv_ids, kv_bias),
                lambda: (jnp.zeros_like(q), jnp.full_like(lse, LOWEST)),
            )
            new = jnp.logaddexp(lse, more_lse)
            out = out * jnp.exp(lse - new)[..., None]
            out = out + more.astype(jnp.float32) * jnp.exp(more_lse - new)[..., None]
            return ((out, new), pass_on((k, v, kv_ids, kv_bias))), None

        nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], LOWEST)
        start = nothing, (k, v, kv_ids, kv_bias)
        ((out, lse), _), _ = jax.lax.scan(hop, start, length=parts)
        return out.astype(q.dtype), lse

    def backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
        def hop(carry, _):
            grad_q, keys, grad_keys = carry
            k, v, kv_ids, kv_bias = keys

            def here():
                grads = engine.backward(
                    q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad
                )
                return jax.tree.map(lambda x: x.astype(jnp.float32), grads)

            def nothing():
                return jax.tree.map(jnp.zeros_like, (grad_q, *grad_keys))

            more = jax.lax.cond(_meet(q_ids, kv_ids), here, nothing)
            grad_q, *grad_keys = jax.tree.map(jnp.add, (grad_q, *grad_keys), more)
            return (grad_q, *pass_on((keys, tuple(grad_keys)))), None

        def zeros(x):
            return jnp.zeros(x.shape, jnp.float32)

        keys = k, v, kv_ids, kv_bias
        start = zeros(q), keys, jax.tree.map(zeros, (k, v, kv_bias))
        (grad_q, _, grad_keys), _ = jax.lax.scan(hop, start, length=parts)
        # After as many hops as devices, all of it is home again.
        grads = jax.tree.map(
            lambda x, like: x.astype(like.dtype),
            (grad_q, *grad_keys),
            (q, k, v, kv_bias),
        )
        return grads

    return Engine(forward, backward)


def _meet(q_ids, kv_ids):
    """Whether the ranges of ids overlap; padding is in none."""

    def ends(ids):
        return jnp.min(jnp.where(ids > 0, ids, jnp.iinfo(ids.dtype).max)), jnp.max(ids)

    (q_low, q_high), (kv_low, kv_high) = ends(q_ids), ends(kv_ids)
    return (q_low <= kv_high) & (kv_low <= q_high)

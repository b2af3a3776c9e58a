"""Context parallelism: an engine of packed attention as an engine over a mesh.

Rows and heads are independent: each device computes its part. For the tokens of a row,
sharded along `context`, there are two methods. *Ulysses* (arXiv 2309.14509) exchanges
tokens for heads and back, if the devices divide the heads. *Ring* (arXiv 2310.01889)
passes keys and values around, one shard per hop, and merges the outputs by their
logsumexp.

Each method returns an engine with a forward and a backward function, so JAX
differentiates through neither.
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
    """Returns the engine for global arrays (B, L, N, K) and (B, M, N, K).

    Args:
        axes: logical axes of the queries' and of the keys' tokens.

    Raises:
        UserError: the keys are sharded and the queries are not sharded alike.
    """
    rows, heads = (
        dividing_axes(q_shape[0], "batch", mesh),
        dividing_axes(q_shape[2], "heads", mesh),
    )
    q_axes = dividing_axes(q_shape[1], axes[0], mesh)
    kv_axes = dividing_axes(kv_shape[1], axes[1], mesh)
    # Queries and keys are sharded alike, or every device that needs keys has all.
    if axis_size(mesh, kv_axes) > 1 and kv_axes != q_axes:
        raise UserError(
            f"{kv_shape[1]} keys are sharded along {' x '.join(kv_axes)} and "
            f"{q_shape[1]} queries are not: make both a multiple of the devices there"
        )
    parts = axis_size(mesh, kv_axes)
    if parts > 1:
        local_heads = q_shape[2] // axis_size(mesh, heads)
        if local_heads % parts == 0:
            engine = ulysses(engine, kv_axes)
        else:
            engine = ring(engine, kv_axes, parts)
    shared = () if kv_axes else q_axes

    def backward(*inputs):
        grad_q, grad_k, grad_v, grad_bias = engine.backward(*inputs)
        if axis_size(mesh, shared) > 1:
            grad_k, grad_v = jax.lax.psum((grad_k, grad_v), shared)
        if grad_bias is not None:
            grad_bias = jax.lax.psum(grad_bias, (*shared, *heads))
        return grad_q, grad_k, grad_v, grad_bias

    q, kv = PartitionSpec(rows, q_axes, heads), PartitionSpec(rows, kv_axes, heads)
    q_ids, kv_ids = PartitionSpec(rows, q_axes), PartitionSpec(rows, kv_axes)
    inputs = (q, kv, kv, q_ids, kv_ids, kv_ids)
    local = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return Engine(
        forward=local(engine.forward, in_specs=inputs, out_specs=(q, q)),
        backward=local(
            backward, in_specs=(*inputs, q, q, q), out_specs=(q, kv, kv, kv_ids)
        ),
    )


def ulysses(engine: Engine, axes: tuple[str, ...]) -> Engine:
    """Returns an engine that gives each device all tokens of a part of its heads."""

    def to_heads(*xs):  # (B, L/c, N, ...) to (B, L, N/c, ...)
        return (jax.lax.all_to_all(x, axes, 2, 1, tiled=True) for x in xs)

    def to_tokens(*xs):
        return (jax.lax.all_to_all(x, axes, 1, 2, tiled=True) for x in xs)

    def gather(*xs):
        return (
            None if x is None else jax.lax.all_gather(x, axes, axis=1, tiled=True)
            for x in xs
        )

    def forward(q, k, v, *ids_and_bias):
        out, lse = engine.forward(*to_heads(q, k, v), *gather(*ids_and_bias))
        return tuple(to_tokens(out, lse))

    def backward(q, k, v, q_ids, kv_ids, kv_bias, *saved):
        ids_and_bias = gather(q_ids, kv_ids, kv_bias)
        grads = engine.backward(*to_heads(q, k, v), *ids_and_bias, *to_heads(*saved))
        grad_bias = grads[3]
        if grad_bias is not None:
            grad_bias = jax.lax.psum_scatter(
                grad_bias, axes, scatter_dimension=1, tiled=True
            )
        return *to_tokens(*grads[:3]), grad_bias

    return Engine(forward, backward)


def ring(engine: Engine, axes: tuple[str, ...], parts: int) -> Engine:
    """Returns an engine that passes keys and values from device to device.

    A shard without a segment in common with the queries is passed on unused. Sums are
    fp32.
    """

    def pass_on(tree):
        pairs = [(i, (i + 1) % parts) for i in range(parts)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, pairs), tree)

    def forward(q, k, v, q_ids, kv_ids, kv_bias):
        def hop(carry, _):
            (out, lse), (k, v, kv_ids, kv_bias) = carry
            more, more_lse = jax.lax.cond(
                _overlap(q_ids, kv_ids),
                lambda: engine.forward(q, k, v, q_ids, kv_ids, kv_bias),
                lambda: (jnp.zeros_like(q), jnp.full_like(lse, LOWEST)),
            )
            new = jnp.logaddexp(lse, more_lse)
            out = out * jnp.exp(lse - new)[..., None]
            out = out + more.astype(jnp.float32) * jnp.exp(more_lse - new)[..., None]
            return ((out, new), pass_on((k, v, kv_ids, kv_bias))), None

        empty = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], LOWEST)
        start = empty, (k, v, kv_ids, kv_bias)
        ((out, lse), _), _ = jax.lax.scan(hop, start, length=parts)
        return out.astype(q.dtype), lse

    def backward(q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad):
        def hop(carry, _):
            grad_q, keys, grad_keys = carry
            k, v, kv_ids, kv_bias = keys

            def visible():
                grads = engine.backward(
                    q, k, v, q_ids, kv_ids, kv_bias, lse, delta, grad
                )
                return jax.tree.map(lambda x: x.astype(jnp.float32), grads)

            def skipped():
                return jax.tree.map(jnp.zeros_like, (grad_q, *grad_keys))

            more = jax.lax.cond(_overlap(q_ids, kv_ids), visible, skipped)
            grad_q, *grad_keys = jax.tree.map(jnp.add, (grad_q, *grad_keys), more)
            return (grad_q, *pass_on((keys, tuple(grad_keys)))), None

        def zeros(x):
            return jnp.zeros(x.shape, jnp.float32)

        keys = k, v, kv_ids, kv_bias
        start = zeros(q), keys, jax.tree.map(zeros, (k, v, kv_bias))
        (grad_q, _, grad_keys), _ = jax.lax.scan(hop, start, length=parts)
        # After as many hops as devices, every gradient is back on its device.
        grads, inputs = (grad_q, *grad_keys), (q, k, v, kv_bias)
        return jax.tree.map(lambda x, like: x.astype(like.dtype), grads, inputs)

    return Engine(forward, backward)


def _overlap(q_ids, kv_ids):
    """Returns whether the ranges of segment ids overlap; padding is in no range."""

    def ends(ids):
        return jnp.min(jnp.where(ids > 0, ids, jnp.iinfo(ids.dtype).max)), jnp.max(ids)

    (q_low, q_high), (kv_low, kv_high) = ends(q_ids), ends(kv_ids)
    return (q_low <= kv_high) & (kv_low <= q_high)

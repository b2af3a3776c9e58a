"""Attention over packed rows: a token sees its segment and no other.

One signature and one gradient serve all engines in `engines/`: the backward pass needs
only the output and its logsumexp (arXiv 2205.14135). The current mesh's platform
selects the engine, so that compiling for a TPU on another host selects the TPU's.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Int

from soraxla.core.types import Array
from soraxla.ops.context_parallel import over_mesh
from soraxla.ops.engines import gpu_dense, tpu_splash, xla_flash
from soraxla.ops.engines.engine import Engine
from soraxla.parallel.compiler import platform
from soraxla.parallel.mesh import current_mesh

# By platform; others use flash attention in plain XLA. `gpu_cudnn` takes the place of
# `gpu_dense` when a GPU has passed its test.
ENGINES = {"tpu": tpu_splash.ENGINE, "gpu": gpu_dense.ENGINE}


def attention(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b m n k"],
    v: Float[Array, "b m n k"],
    *,
    q_segment_ids: Int[Array, "b l"],
    kv_segment_ids: Int[Array, "b m"],
    kv_bias: Float[Array, "b m"] | None = None,
    axes: tuple[str, str] = ("tokens", "tokens"),
    name: str = "attn",
) -> Float[Array, "b l n k"]:
    """Computes softmax attention of each query to the keys with its segment id.

    Logits are scaled by 1/√k; logits and softmax are fp32. A query of id 0 (padding),
    or whose segment has no key, gets exactly 0; keys of id 0 get exactly no gradient.
    The cost follows the blocks that segments share if ids ascend along a row, as in
    packed rows; the result is right in any order. Memory is O(l + m).

    Args:
        kv_bias: added to every logit of a key; log(n) makes one key count as n.
        axes: logical axes of l and m, for the current mesh, if there is one.
        name: the name of output and logsumexp for `jax.checkpoint` policies: a policy
            that saves them avoids a second forward pass.
    """
    engine, mesh = ENGINES.get(platform(), xla_flash.ENGINE), current_mesh()
    if mesh is not None:
        engine = over_mesh(engine, mesh, axes, q.shape, k.shape)
    return _attention(engine, name, q, k, v, q_segment_ids, kv_segment_ids, kv_bias)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(engine: Engine, name: str, *inputs):
    return engine.forward(*inputs)[0]


def _attention_forward(engine: Engine, name: str, *inputs):
    out, lse = (checkpoint_name(x, name) for x in engine.forward(*inputs))
    return out, (inputs, out, lse)


def _attention_backward(engine: Engine, name: str, saved, grad):
    inputs, out, lse = saved
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    grad_q, grad_k, grad_v, grad_bias = engine.backward(*inputs, lse, delta, grad)
    return grad_q, grad_k, grad_v, None, None, grad_bias


_attention.defvjp(_attention_forward, _attention_backward)

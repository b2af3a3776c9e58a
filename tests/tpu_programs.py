"""Compiles programs for a TPU topology, for `test_tpu_compile.py`; prints the memory
of each, and how many Pallas kernels it calls, as one line of JSON.

    python -m tests.tpu_programs TOPOLOGY PROGRAM…
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from soraxla.core.types import PackedBatch
from soraxla.models import vae
from soraxla.models.dit.config import dit_config
from soraxla.models.vae.model import VAEConfig
from soraxla.ops.attention import attention
from soraxla.parallel.compiler import jit
from soraxla.parallel.mesh import make_mesh
from soraxla.training.dit_step import DiTStepConfig, dit_init, dit_step

B, L, S, M = 1, 256, 4, 64


def packed_batch(cfg):
    """The shapes of a batch."""
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    ids = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    return PackedBatch(
        latents=shape((B, L, cfg.patch_dim)),
        segment_ids=ids((B, L)),
        token_index=ids((B, L)),
        positions=shape((B, L, 3)),
        condition_mask=jax.ShapeDtypeStruct((B, L), jnp.bool_),
        controls=shape((B, L, 0)),
        features=shape((B, L, 0)),
        text=shape((B, M, cfg.text_width)),
        text_segment_ids=ids((B, M)),
        visit=jax.ShapeDtypeStruct((B, S), jnp.uint32),
        shift=shape((B, S)),
    )


def train_step():
    step = DiTStepConfig(model=dit_config("debug"))
    state = jax.eval_shape(lambda: dit_init(step))
    train = functools.partial(dit_step, cfg=step)
    return train, (state, packed_batch(step.model)), (0,)


def vae_decode():
    # The compiler's time goes with the number of layers and the size of a frame.
    cfg = VAEConfig(base_width=16, res_blocks=1)
    params = jax.eval_shape(lambda: vae.init(jax.random.key(0), cfg))
    latents = jax.ShapeDtypeStruct((1, 2, 2, 2, cfg.latent_channels), jnp.float32)

    def decode(params, latents):
        return vae.decode(params, cfg, latents)

    return decode, (params, latents), ()


def _attention(length):
    tokens = jax.ShapeDtypeStruct((1, length, 1, 128), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def run(q, k, v, ids):
        return attention(q, k, v, q_segment_ids=ids, kv_segment_ids=ids)

    return run, (tokens, tokens, tokens, ids), ()


def attention_gradient():
    """A packed row of 16k tokens, forward and backward."""
    run, shapes, _ = _attention(16_384)

    def loss(*args):
        return jnp.sum(run(*args).astype(jnp.float32))

    return jax.value_and_grad(loss, argnums=(0, 1, 2)), shapes, ()


def long_attention():
    """A minute of video in one row: its tables are cut into shares."""
    return _attention(2_900_000)


# Name → a function that gives (function, shapes of its arguments, what is donated).
PROGRAMS = {
    "train_step": train_step,
    "vae_decode": vae_decode,
    "attention_gradient": attention_gradient,
    "long_attention": long_attention,
}


def main(topology, *names):
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=topology
    ).devices
    mesh = make_mesh(devices=devices[:1])
    whole = NamedSharding(mesh, PartitionSpec())

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)

    memory = {}
    for name in names:
        function, shapes, donated = PROGRAMS[name]()
        with jax.set_mesh(mesh):
            arguments = jax.tree.map(placed, shapes)
            compiled = jit(function, donate_argnums=donated).lower(*arguments).compile()
        analysis = compiled.memory_analysis()
        memory[name] = {
            "arguments": analysis.argument_size_in_bytes,
            "output": analysis.output_size_in_bytes,
            "temporary": analysis.temp_size_in_bytes,
            "aliased": analysis.alias_size_in_bytes,
            "kernels": compiled.as_text().count('"tpu_custom_call"'),
        }
    print(json.dumps(memory))


if __name__ == "__main__":
    main(*sys.argv[1:])

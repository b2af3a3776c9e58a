"""Rows of three clips, a small transformer, and what it computes of them.

All rows are of one shape: compiling takes most of the tests' time.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from soraxla.core.types import PackedBatch
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig

CFG = DiTConfig(
    layers=2,
    width=24,
    heads=2,
    mlp_width=40,
    latent_channels=2,
    text_width=6,
    dtype="float32",
)
GATED = dataclasses.replace(CFG, input_gate=True)
LOCAL = dataclasses.replace(GATED, local_layers=2, local_width=6)
TOLD = dataclasses.replace(LOCAL, local_layers=1, forecast_layers=1)
L, S, M = 14, 3, 36


def clip(seed, tokens, text_tokens, condition_mask=()):
    """Returns the arrays of a segment as a dict, and its times."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(tokens, CFG.patch_dim)),
        "positions": rng.integers(0, 9, size=(tokens, 3)),
        "condition_mask": np.isin(np.arange(tokens), condition_mask),
        "text": rng.normal(size=(text_tokens, CFG.text_width)),
        "t": rng.uniform(0.2, 0.9),
        "condition_t": rng.uniform(0.0, 0.2),
    }


def on_a_grid(c, height, width):
    """The same clip, of frames of height × width tokens."""
    place = np.indices((len(c["x"]) // (height * width), height, width))
    return {**c, "positions": place.reshape(3, -1).T}


A, B, C = (
    clip(0, 6, 3, condition_mask=(0, 1)),
    clip(1, 4, 1),
    clip(2, 2, 4, condition_mask=(1,)),
)


def pack(*clips, fill=0.0):
    """One row: (x, t, batch, condition_t). `fill` stands at padding."""
    x = np.full((1, L, CFG.patch_dim), fill, np.float32)
    text = np.full((1, M, CFG.text_width), fill, np.float32)
    positions = np.full((1, L, 3), fill, np.float32)
    ids, text_ids = (
        np.zeros((1, L), np.int32),
        np.zeros((1, M), np.int32),
    )
    condition_mask = np.zeros((1, L), bool)
    t, condition_t = np.full((1, S), 0.5, np.float32), np.full((1, S), 0.1, np.float32)
    start = text_start = 0
    for i, c in enumerate(clips):
        at = np.s_[0, start : start + len(c["x"])]
        text_at = np.s_[0, text_start : text_start + len(c["text"])]
        x[at], positions[at], condition_mask[at] = (
            c["x"],
            c["positions"],
            c["condition_mask"],
        )
        text[text_at] = c["text"]
        ids[at], text_ids[text_at] = i + 1, i + 1
        t[0, i], condition_t[0, i] = c["t"], c["condition_t"]
        start, text_start = start + len(c["x"]), text_start + len(c["text"])
    batch = PackedBatch(
        latents=np.zeros_like(x),
        segment_ids=ids,
        token_index=np.zeros_like(ids),
        positions=positions,
        condition_mask=condition_mask,
        controls=np.zeros((*ids.shape, 0), np.float32),
        features=np.zeros((*ids.shape, 0), np.float32),
        text=text,
        text_segment_ids=text_ids,
        visit=np.zeros((1, S), np.uint32),
        shift=np.ones((1, S), np.float32),
    )
    return x, t, batch, condition_t


def random_params(cfg, seed=0):
    """No leaf left at the 0 or 1 it starts from, so that nothing is invisible."""
    shapes = jax.eval_shape(lambda: dit.init(jax.random.key(0), cfg))
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        name = path[-1].key
        scale = shape.shape[-2] ** -0.5 if name == "kernel" else 0.3
        value = rng.normal(size=shape.shape) * scale + (name == "scale")
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def params():
    return random_params(CFG)


def wan(text_pad_to):
    """CFG as Wan has it: no refiner, no embedded position."""
    return dataclasses.replace(
        CFG, text_refiner_layers=0, text_pad_to=text_pad_to, position_embed=False
    )


# Almost all of these tests' time is compilation, of which less will do.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@functools.cache
def start(cfg=CFG, only=None):
    """Fresh parameters; `only` compiles no more than these."""

    def init():
        made = dit.init(jax.random.key(0, impl="rbg"), cfg)
        return {name: made[name] for name in only or made}

    return jit(init)()


@functools.partial(jit, static_argnums=1)
def run(params, cfg, x, t, batch, condition_t):
    return dit.apply(params, cfg, x, t, batch, condition_t)


@functools.partial(jit, static_argnums=1)
def gradients(params, cfg, x, t, batch, condition_t):
    """Returns gradients of a smooth function of the output by all its inputs."""

    def loss(params, x, text, positions):
        row = batch._replace(text=text, positions=positions)
        return jnp.sum(jnp.sin(0.5 + dit.apply(params, cfg, x, t, row, condition_t)))

    inputs = (params, x, batch.text, batch.positions)
    return jax.grad(loss, argnums=(0, 1, 2, 3))(*inputs)

"""Heads that only a training has: from a block's tokens to features.

Their parameters are in the training state beside the model's, so the optimizer, the EMA
and the checkpoint hold them. Readers of a training folder leave them out.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, PyTree

from soraxla.core.types import Array
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.layers import layer_norm
from soraxla.models.dit.sharding import trained_rules
from soraxla.ops.linear import affine
from soraxla.parallel.mesh import Rules
from soraxla.training.dit_step_config import DiTStepConfig

HEADS = "training_heads"  # the node of a training's parameters
_LAYERS = ("in_proj", "mid_proj", "out_proj")
_PARTS = ("kernel", "bias")

# Sharding rules of the heads' parameters; their vectors are replicated.
HEAD_RULES: Rules = (
    (rf"{HEADS}\..*\.kernel", ("embed", None)),
    (rf"{HEADS}\..*\.bias", ()),
)


def state_rules(cfg: DiTStepConfig) -> Rules:
    """Returns the sharding rules of a training state."""
    rules = trained_rules(cfg.lora)
    has_heads = cfg.self_flow is not None or cfg.alignment is not None
    return (*HEAD_RULES, *rules) if has_heads else rules


def init_head(key: PRNGKeyArray, width: int, features: int) -> dict[str, Any]:
    """Returns a new MLP of three layers, as REPA's (arXiv 2410.06940), all fp32."""
    widths = (width, 2 * width, 2 * width, features)
    made = {}
    for i, name in enumerate(_LAYERS):
        bound = (6.0 / (widths[i] + widths[i + 1])) ** 0.5
        shape = (widths[i], widths[i + 1])
        kernel = jax.random.uniform(
            jax.random.fold_in(key, i), shape, minval=-bound, maxval=bound
        )
        made[name] = {"kernel": kernel, "bias": jnp.zeros(widths[i + 1])}
    return made


def apply_head(
    head: PyTree, x: Float[Array, "b l d"], cfg: DiTConfig
) -> Float[Array, "b l f"]:
    """Returns the features that a head predicts from a block's tokens."""
    x = layer_norm(x)
    for i, name in enumerate(_LAYERS):
        x, kernel, bias = (
            jnp.asarray(a, cfg.dtype) for a in (x, *(head[name][k] for k in _PARTS))
        )
        x = affine(x if i == 0 else jax.nn.silu(x), kernel, bias)
    return x


def head_flops(width: int, features: int) -> int:
    """Returns the FLOPs of a token in a head's forward pass."""
    return 2 * (2 * width * width + 4 * width * width + 2 * width * features)


def without_heads(params: PyTree) -> PyTree:
    """Returns the model's parameters of a training's."""
    return {name: node for name, node in params.items() if name != HEADS}

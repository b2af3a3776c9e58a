"""Layers of all pretrained encoders: attention with a bias, activations.

Matrices are stored and multiplied in the model's dtype. In fp32 are logits and softmax,
the residual stream, biases of positions, and the norms, which are those of the
transformer's `layers.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.core.types import Array

_MASKED = -1e30  # finite, so that a row of padding only is not NaN

# Keys are the names in config.json.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


def check_activation(name: str, setting: str) -> None:
    """Raises UserError unless `name`, the value of `setting`, is in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise UserError(f"unknown {setting} {name!r}{nearest(name, ACTIVATIONS)}")


def check_heads(hidden_size: int, heads: int) -> None:
    """Raises UserError unless the heads divide the width."""
    if hidden_size % heads:
        raise UserError(
            f"hidden_size {hidden_size} is no multiple of num_attention_heads {heads}; "
            "download it again"
        )


class SelfAttention(nn.Module):
    """Multi-head self-attention whose logits gain a bias; input and output are fp32.

    Attributes:
        scale: factor of the logits before the bias.
        use_bias: of the four projections.
    """

    heads: int
    head_dim: int
    scale: float
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], bias: Float[Array, "#b #n #m m"]
    ) -> Float[Array, "b m d"]:
        inner = self.heads * self.head_dim

        def project(name: str) -> jax.Array:
            y = dense(inner, self.dtype, use_bias=self.use_bias, name=name)(x)
            return y.reshape(*y.shape[:2], self.heads, self.head_dim)

        q, k, v = project("q"), project("k"), project("v")
        logits = jnp.einsum("bqnk,bmnk->bnqm", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * self.scale + bias, axis=-1)
        out = jnp.einsum("bnqm,bmnk->bqnk", weights.astype(self.dtype), v)
        out = out.reshape(*out.shape[:2], inner)
        out = dense(x.shape[-1], self.dtype, use_bias=self.use_bias, name="o")(out)
        return out.astype(jnp.float32)


def dense(features: int, dtype: jnp.dtype, *, use_bias: bool, name: str) -> nn.Dense:
    """Returns a dense layer, stored and computed in `dtype`."""
    return nn.Dense(
        features, use_bias=use_bias, dtype=dtype, param_dtype=dtype, name=name
    )


def mask_bias(valid: Bool[Array, "b m"]) -> Float[Array, "b 1 1 m"]:
    """Returns 0 for valid keys, and far below any logit for padding."""
    return jnp.where(valid, 0.0, _MASKED)[:, None, None, :].astype(jnp.float32)


def causal_bias(length: int) -> Float[Array, "1 1 m m"]:
    """Returns 0 for a token and those before it, far below any logit for later ones."""
    seen = jnp.tril(jnp.ones((length, length), bool))
    return jnp.where(seen, 0.0, _MASKED)[None, None].astype(jnp.float32)


def scan_blocks(block: type[nn.Module], layers: int) -> Callable[..., nn.Module]:
    """Returns `layers` blocks of (x, bias) as one scan, with stacked parameters."""
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,  # pyright: ignore
        length=layers,
    )

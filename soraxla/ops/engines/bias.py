"""Key biases for kernels without a bias: additional columns of q and k."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from soraxla.core.types import Array

COLUMNS = 3  # bf16 numbers whose sum is an fp32 number


def with_bias(
    q: Float[Array, "b l n k"],
    k: Float[Array, "b m n k"],
    kv_bias: Float[Array, "b m"] | None,
) -> tuple[Float[jax.Array, "b l n kk"], Float[jax.Array, "b m n kk"]]:
    """Returns q and k whose products are those of the arguments plus the key's bias.

    `COLUMNS` columns of ones in q meet bf16 numbers in k whose sum is the bias, so the
    product is exact to fp32 at any precision of the operands. The bias's gradient is
    that of the first of these columns of k, summed over heads.
    """
    if kv_bias is None:
        return jnp.asarray(q), jnp.asarray(k)
    parts, rest = [], kv_bias.astype(jnp.float32)
    for _ in range(COLUMNS):
        # A compiler may remove a cast and its inverse, but not this.
        part = jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7)
        parts.append(part)
        rest = rest - part
    columns_BMC = jnp.stack(parts, axis=-1).astype(k.dtype)
    columns_BMNC = jnp.broadcast_to(columns_BMC[:, :, None, :], (*k.shape[:3], COLUMNS))
    ones_BLNC = jnp.ones((*q.shape[:3], COLUMNS), q.dtype)
    return (
        jnp.concatenate([q, ones_BLNC], axis=-1),
        jnp.concatenate([k, columns_BMNC], axis=-1),
    )

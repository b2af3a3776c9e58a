"""The product of a linear layer, with weight gradients that are fast on a CPU."""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.parallel.compiler import platform
from soraxla.parallel.mesh import current_mesh


def affine(
    x: Float[Array, "b l i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"] | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "b l o"]:
    """Returns x·kernel + bias; `dtype` is the product's, None the operands'."""
    mesh = current_mesh()
    # On several devices, a requested layout makes old jax gather.
    if dtype is None and platform() == "cpu" and (mesh is None or mesh.size == 1):
        return _cpu_affine(x, kernel, bias)
    return _plain(x, kernel, bias, dtype)


def _plain(
    x: Array, kernel: Array, bias: Array | None, dtype: DTypeLike | None
) -> Array:
    y = jnp.matmul(x, kernel, preferred_element_type=dtype)
    return y if bias is None else y + bias[None, None, :]


@jax.custom_vjp
def _cpu_affine(x: Array, kernel: Array, bias: Array | None) -> Array:
    return _plain(x, kernel, bias, None)


def _forward(x: Array, kernel: Array, bias: Array | None):
    return _plain(x, kernel, bias, None), (x, kernel, bias)


def _backward(saved: tuple[Array, Array, Array | None], grad_BLO: Array):
    """Returns the gradients of x, kernel and bias.

    It copies x transposed in memory, and sums by a product with ones: XLA folds a
    transpose into a product over rows, for which it has no fast bf16 kernel, nor fast
    sums.
    """
    x_BLI, kernel, bias = saved
    x_RI, grad_RO = (y.reshape(-1, y.shape[-1]) for y in (x_BLI, grad_BLO))
    x_IR = with_layout_constraint(x_RI.T, Layout((0, 1)))
    grad_bias = None
    if bias is not None:
        grad_bias = jnp.ones(len(grad_RO), grad_RO.dtype) @ grad_RO
    return jnp.einsum("blo,io->bli", grad_BLO, kernel), x_IR @ grad_RO, grad_bias


_cpu_affine.defvjp(_forward, _backward)

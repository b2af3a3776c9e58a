"""Muon's directions: momenta of matrices, made orthogonal by Newton-Schulz iterations.

A transformer's stacked kernels have a matrix per layer, (layer, in, out); a VAE's are
matrices from all taps and inputs to outputs, (taps…, in, out). Matrices of one shape
are computed together, whatever kernels they belong to.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Float, PyTree
from optax.contrib import MuonState

from soraxla.core.types import Array
from soraxla.parallel.compiler import fast_product_dtype, platform

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_STEPS = 4
_DECAY = 0.95  # of the momentum
_RMS = 0.2  # of a direction's numbers, about that of AdamW's (arXiv 2502.16982)
_TINY = 1e-8


def scale_by_muon() -> optax.GradientTransformation:
    """Returns the map from gradients to `directions` of Nesterov's momenta.

    It computes what optax's function of the same name computes, and has its state.
    """

    def init(params: PyTree) -> MuonState:
        return MuonState(
            count=jnp.zeros([], jnp.int32),
            mu=jax.tree.map(jnp.zeros_like, params),
            ns_coeffs=jnp.asarray(_COEFFICIENTS),
        )

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, _DECAY, 1)
        ahead = optax.tree.bias_correction(mu, _DECAY, optax.safe_increment(count))
        now = optax.tree.bias_correction(updates, _DECAY, count)
        momenta = jax.tree.map(lambda m, g: _DECAY * m + (1 - _DECAY) * g, ahead, now)
        return directions(momenta), MuonState(count, mu, state.ns_coeffs)

    return optax.GradientTransformation(init, update)


def directions(momenta: PyTree) -> PyTree:
    """Returns the orthogonal matrices next to the momenta, scaled to an RMS of 0.2."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(momenta)
    stacks = [_wide(path, x) for path, x in leaves]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, stack in enumerate(stacks):
        groups.setdefault(stack.shape, []).append(place)
    for (_, _, long), places in groups.items():
        stack_NKSL = jnp.stack([stacks[place] for place in places], axis=1)
        stack_NKSL = _RMS * long**0.5 * orthogonalized(stack_NKSL)
        for k, place in enumerate(places):
            stacks[place] = stack_NKSL[:, k]
    found = [_as(path, x, y) for (path, x), y in zip(leaves, stacks, strict=True)]
    return jax.tree.unflatten(tree, found)


def in_vae(path: tuple) -> bool:
    """Returns whether a parameter is a VAE's."""
    return path[0].key in ("encoder", "decoder")


def _matrices(path: tuple, x: Array) -> tuple[int, int, int]:
    """Returns how many matrices a kernel holds, and their inputs and outputs."""
    layers = 1 if in_vae(path) or x.ndim == 2 else x.shape[0]
    return layers, x.size // (layers * x.shape[-1]), x.shape[-1]


def _wide(path: tuple, x: jax.Array) -> jax.Array:
    """Returns a kernel's matrices (n s l), transposed where that makes s at most l."""
    _, inputs, outputs = shape = _matrices(path, x)
    x = x.reshape(shape)
    return x if inputs <= outputs else x.swapaxes(1, 2)


def _as(path: tuple, kernel: jax.Array, wide: jax.Array) -> jax.Array:
    """Returns the inverse of `_wide`, in the shape of a kernel."""
    _, inputs, outputs = _matrices(path, kernel)
    return (wide if inputs <= outputs else wide.swapaxes(1, 2)).reshape(kernel.shape)


def orthogonalized(
    stack: Float[Array, "n k s l"], dtype: DTypeLike | None = None
) -> Float[Array, "n k s l"]:
    """Returns n·k matrices with all singular values near 1; s is at most l.

    The first step's scaling saves a fifth one (arXiv 2512.04632). Layers are computed
    one after the other, with the memory of one. A CPU multiplies single matrices
    faster than batches: 48 of 192 × 192 and 12 of 192 × 768 by a third.

    Args:
        dtype: of the factors of products, whose sums are fp32; None is the fastest
            that the device multiplies.
    """
    dtype = fast_product_dtype() if dtype is None else dtype
    one = partial(_newton_schulz, dtype=dtype)
    of_layer = partial(jax.lax.map, one) if platform() == "cpu" else jax.vmap(one)
    return jax.lax.map(of_layer, jnp.asarray(stack))


def _newton_schulz(x_SL: jax.Array, *, dtype: DTypeLike) -> jax.Array:
    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = a.astype(dtype), b.astype(dtype)
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    linear, cubic, quintic = _COEFFICIENTS
    for step in range(_STEPS):
        gram_SS = product(x_SL, x_SL.T)
        if step == 0:
            sums_S = jnp.maximum(jnp.sum(jnp.abs(gram_SS), axis=-1), _TINY)
            scale_S1 = jax.lax.rsqrt(sums_S)[:, None]
            x_SL, gram_SS = scale_S1 * x_SL, scale_S1 * gram_SS * scale_S1.T
        sum_SS = cubic * gram_SS + quintic * product(gram_SS, gram_SS)
        x_SL = linear * x_SL + product(sum_SS, x_SL)
    return x_SL

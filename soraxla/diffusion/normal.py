"""Standard normal numbers whose bits depend only on the key and the index.

`jax.random.normal` lets the compiler fuse a product into the following addition, which
skips a rounding. Whether it does so differs between the body and the tail of a vector
loop, hence between shapes, shardings and instruction sets. Every product here is
rounded before it is added.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from soraxla.core.types import Array

# log(m) = f − f²/2 + f³ · poly(f), f = m − 1, √½ ≤ m < √2: coefficients of Cephes.
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1),
    *(1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1),
    3.3333331174e-1,
)
# The inverse error function, M. Giles, "Approximating the erfinv function" (2012).
_CENTRE = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06),
    *(0.00021858087, -0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_TAIL = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844),
    *(0.00573950773, -0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def normal(key: Key[jax.Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Returns `jax.random.normal(key, shape)`, but with reproducible bits."""
    low = np.nextafter(np.float32(-1.0), np.float32(0.0))
    u = jax.random.uniform(key, shape, minval=low, maxval=1.0)  # its product is exact
    return _product(_erf_inv(u), 2.0**0.5)


def _erf_inv(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    w = -_log(_product(1.0 - x, 1.0 + x))
    centre = _polynomial(_CENTRE, w - 2.5)
    tail = _polynomial(_TAIL, jnp.sqrt(jnp.maximum(w, 5.0)) - 3.0)
    return _product(jnp.where(w < 5.0, centre, tail), x)


def _log(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the natural logarithm of normal numbers above 0."""
    # Adding the gap between √½ and 1 to the bits carries into the exponent where the
    # mantissa is above √½.
    root = np.float32(np.sqrt(0.5)).view(np.int32)
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) - root
    exponent, mantissa = bits >> 23, (bits & 0x7FFFFF) + root
    f = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1.0
    square = _product(f, f)
    rest = _product(_product(_polynomial(_LOG, f), f), square) - 0.5 * square
    e = exponent.astype(jnp.float32)
    # ln 2 in two parts; the first has few bits, so that its product is exact.
    return 0.693359375 * e + (f + (rest + _product(e, -2.12194440e-4)))


def _polynomial(
    coefficients: tuple[float, ...], x: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    total = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = _product(total, x) + np.float32(coefficient)
    return total


def _product(a: Array, b: Array | float) -> Array:
    """Returns a · b, rounded: the clip has no effect but keeps it from an addition."""
    return jnp.clip(a * b, -1e30, 1e30)

"""Convolutions with batch norm, of both Inception networks; fp32 on every platform.

A network is a function of its input and of `conv`. Once `conv` records the shapes of
the kernels, and once it convolves.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from soraxla.core.types import Array
from soraxla.files.tensor_files import check_tensors, model_files, open_tensors

Padding = Literal["SAME", "VALID"]
NORM = ("weight", "bias", "running_mean", "running_var")


@runtime_checkable
class Conv(Protocol):
    """A convolution; `kernel` and `stride` in positions of each axis."""

    def __call__(
        self,
        x: Array,
        name: str,
        width: int,
        kernel: Sequence[int],
        stride: int = 1,
        padding: Padding = "SAME",
    ) -> Array: ...


def recorded(
    network: Callable[[Conv, Array], Array], shape: Sequence[int], divisor: int = 1
) -> dict[str, tuple[int, ...]]:
    """Returns the shape (out, in, …) of each kernel of a network.

    Args:
        shape: of an input.
        divisor: of the widths.
    """
    found: dict[str, tuple[int, ...]] = {}

    def conv(x, name, width, kernel, stride=1, padding: Padding = "SAME"):
        width = max(1, width // divisor)
        found[name] = (width, x.shape[-1], *kernel)
        blank = jnp.zeros((*kernel, x.shape[-1], width))
        return _convolve(x, blank, stride, padding)

    jax.eval_shape(lambda x: network(conv, x), jnp.zeros(tuple(shape)))
    return found


def applied(params: PyTree, *, linear: Sequence[str] = ()) -> Conv:
    """Returns the convolutions with their parameters, bias and ReLU.

    Args:
        linear: names of those without ReLU.
    """

    def conv(x, name, width, kernel, stride=1, padding: Padding = "SAME"):
        del width, kernel
        y = _convolve(x, params[name]["kernel"], stride, padding)
        y = y + params[name]["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
        return y if name in linear else jax.nn.relu(y)

    return conv


def _convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    axes = "THW"[5 - x.ndim :]
    return jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel),
        (stride,) * len(axes),
        padding,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        precision=jax.lax.Precision.HIGHEST,
    )


def max_pool(
    x: Array, window: Sequence[int], stride: Sequence[int], padding: Padding
) -> Array:
    """Returns the maxima of windows; padding never is one."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), padding
    )


def average_pool(x: Array, window: Sequence[int], padding: Padding) -> Array:
    """Returns the means of windows at every position; padding does not count."""
    sums, counts = (
        jax.lax.reduce_window(
            y, 0.0, jax.lax.add, (1, *window, 1), (1,) * x.ndim, padding
        )
        for y in (x, jnp.ones((1, *x.shape[1:-1], 1), x.dtype))
    )
    return sums / counts


def load_folded(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    conv: str,
    eps: float,
    biased: Sequence[str] = (),
) -> PyTree:
    """Loads {name: {kernel, bias}}, each batch norm folded into its convolution.

    Args:
        shapes: as `recorded`.
        conv: name of a convolution beside its "bn" in the file.
        eps: of batch norm.
        biased: names that have a bias and no batch norm.

    Raises:
        UserError: a file is damaged or missing; tensors are missing, unexpected or
            mis-shaped.
    """
    found, expected = open_tensors(model_files(folder)), {}
    for name, shape in shapes.items():
        expected[f"{name}.{conv}.weight"] = shape
        if name in biased:
            expected[f"{name}.{conv}.bias"] = shape[:1]
        else:
            expected |= {f"{name}.bn.{part}": shape[:1] for part in NORM}
    check_tensors(found, expected, folder)

    def read(name: str) -> Any:
        return np.asarray(found[name][()], np.float64)

    params = {}
    for name in shapes:
        kernel, bias = read(f"{name}.{conv}.weight"), 0.0
        if name in biased:
            bias = read(f"{name}.{conv}.bias")
        else:
            gain, shift, mean, var = (read(f"{name}.bn.{part}") for part in NORM)
            gain = gain / np.sqrt(var + eps)
            kernel = kernel * gain.reshape(-1, *(1,) * (kernel.ndim - 1))
            bias = shift - mean * gain
        axes = (*range(2, kernel.ndim), 1, 0)
        layer = {"kernel": kernel.transpose(axes), "bias": bias}
        params[name] = {
            part: np.ascontiguousarray(value, np.float32)
            for part, value in layer.items()
        }
    return params

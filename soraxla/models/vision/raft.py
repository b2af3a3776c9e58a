"""RAFT (arXiv 2003.12039): the optical flow from one frame to another, in pixels."""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from soraxla.core.types import Array
from soraxla.files.tensor_files import check_tensors, model_files, open_tensors
from soraxla.models.text import folder as hf
from soraxla.models.vision.convolutions import NORM

KIND = "raft"  # model_type in config.json
STRIDE = 8  # pixels of a position of the features
_LEVELS, _RADIUS = 4, 4  # of the correlations
_EPS = 1e-5  # of both norms


@dataclass(frozen=True, kw_only=True)
class RAFTConfig:
    """The settings of RAFT; `width_divisor` makes narrow ones, for tests."""

    width_divisor: int = 1


@functools.cache
def layers(cfg: RAFTConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape (out, in, h, w) of each kernel, by the published names."""

    def of(n: int) -> int:
        return n // cfg.width_divisor

    found: dict[str, tuple[int, ...]] = {}
    for net in ("fnet", "cnet"):
        found[f"{net}.conv1"] = (of(64), 3, 7, 7)
        for i, (before, after) in enumerate(((64, 64), (64, 96), (96, 128)), 1):
            for block in range(2):
                name, inputs = f"{net}.layer{i}.{block}", after if block else before
                found[f"{name}.conv1"] = (of(after), of(inputs), 3, 3)
                found[f"{name}.conv2"] = (of(after), of(after), 3, 3)
            if i > 1:
                found[f"{net}.layer{i}.0.downsample.0"] = (of(after), of(before), 1, 1)
        found[f"{net}.conv2"] = (of(256), of(128), 1, 1)
    correlations = _LEVELS * (2 * _RADIUS + 1) ** 2
    block = {
        "encoder.convc1": (of(256), correlations, 1, 1),
        "encoder.convc2": (of(192), of(256), 3, 3),
        "encoder.convf1": (of(128), 2, 7, 7),
        "encoder.convf2": (of(64), of(128), 3, 3),
        "encoder.conv": (of(128) - 2, of(64) + of(192), 3, 3),
        "flow_head.conv1": (of(256), of(128), 3, 3),
        "flow_head.conv2": (2, of(256), 3, 3),
        "mask.0": (of(256), of(128), 3, 3),
        "mask.2": (9 * STRIDE**2, of(256), 1, 1),
    }
    for i, kernel in ((1, (1, 5)), (2, (5, 1))):
        for gate in "zrq":
            block[f"gru.conv{gate}{i}"] = (of(128), 3 * of(128), *kernel)
    return found | {f"update_block.{name}": shape for name, shape in block.items()}


def norms(cfg: RAFTConfig) -> dict[str, str]:
    """Returns the batch norm after each convolution of the context network."""
    found = {}
    for name in layers(cfg):
        if name.startswith("cnet.") and name != "cnet.conv2":
            stem, _, last = name.rpartition(".")
            found[name] = f"{stem}.1" if last == "0" else f"{stem}.norm{last[-1]}"
    return found


def load(folder: Path) -> tuple[PyTree, RAFTConfig]:
    """Loads parameters and settings from a folder of `tools.convert_features`.

    Raises:
        UserError: a file is damaged or missing; tensors are missing, unexpected or
            mis-shaped.
    """
    config = hf.read_config(folder, {KIND: "raft-things.pth"})
    cfg = hf.settings(RAFTConfig, config, folder)
    found, expected = open_tensors(model_files(folder)), {}
    for name, shape in layers(cfg).items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, norm in norms(cfg).items():
        expected |= {f"{norm}.{part}": expected[f"{name}.bias"] for part in NORM}
    check_tensors(found, expected, folder)

    def read(name: str) -> np.ndarray:
        return np.asarray(found[name][()], np.float64)

    params = {}
    for name in layers(cfg):
        kernel, bias = read(f"{name}.weight"), read(f"{name}.bias")
        if norm := norms(cfg).get(name):
            gain, shift, mean, var = (read(f"{norm}.{part}") for part in NORM)
            gain = gain / np.sqrt(var + _EPS)
            kernel = kernel * gain[:, None, None, None]
            bias = shift + (bias - mean) * gain
        layer = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
        params[name] = {
            k: np.ascontiguousarray(v, np.float32) for k, v in layer.items()
        }
    return params, cfg


def flow(
    params: PyTree,
    one: Float[Array, "b h w 3"],
    other: Float[Array, "b h w 3"],
    iterations: int = 20,
) -> Float[Array, "b h w 2"]:
    """Returns how far each pixel of one frame moves to the other, (x, y) in pixels.

    Args:
        one: of 0…255, with sides that are multiples of 8 and at least 64.
    """
    one, other = (jnp.asarray(x) / 127.5 - 1 for x in (one, other))
    levels = _pyramid(_encoded(params, "fnet", one), _encoded(params, "fnet", other))
    context = _encoded(params, "cnet", one)
    hidden, context = jnp.split(context, 2, axis=-1)
    hidden, context = jnp.tanh(hidden), jax.nn.relu(context)
    b, h, w, _ = hidden.shape
    y, x = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
    start = jnp.broadcast_to(jnp.stack([x, y], -1)[None], (b, h, w, 2)).astype(float)

    def update(carry, _):
        hidden, moved = carry
        seen = _looked_up(levels, start + moved)
        motion = _motion(params, seen, moved)
        hidden = _gru(params, hidden, jnp.concatenate([context, motion], -1))
        head = jax.nn.relu(_conv(params, "update_block.flow_head.conv1", hidden))
        return (hidden, moved + _conv(params, "update_block.flow_head.conv2", head)), ()

    first = hidden, jnp.zeros_like(start)
    (hidden, moved), _ = jax.lax.scan(update, first, None, length=iterations)
    mask = jax.nn.relu(_conv(params, "update_block.mask.0", hidden))
    return _enlarged(moved, 0.25 * _conv(params, "update_block.mask.2", mask))


def _conv(params: PyTree, name: str, x: Array, stride: int = 1) -> Array:
    kernel = jnp.asarray(params[name]["kernel"])
    sides = [((n - 1) // 2, (n - 1) // 2) for n in kernel.shape[:2]]
    y = jax.lax.conv_general_dilated(
        jnp.asarray(x),
        kernel,
        (stride, stride),
        sides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return y + params[name]["bias"][None, None, None]


def _encoded(params: PyTree, net: str, x: Array) -> Array:
    """Returns the features of a frame; `cnet` has its norms in its convolutions."""

    def normed(name: str, x: Array, stride: int = 1) -> Array:
        y = _conv(params, f"{net}.{name}", x, stride)
        if net == "cnet":
            return y
        mean = y.mean((1, 2), keepdims=True)
        return (y - mean) / jnp.sqrt(y.var((1, 2), keepdims=True) + _EPS)

    x = jax.nn.relu(normed("conv1", x, 2))
    for layer, stride in ((1, 1), (2, 2), (3, 2)):
        for block in range(2):
            name, step = f"layer{layer}.{block}", 1 if block else stride
            y = jax.nn.relu(normed(f"{name}.conv1", x, step))
            y = jax.nn.relu(normed(f"{name}.conv2", y))
            x = normed(f"{name}.downsample.0", x, step) if step > 1 else x
            x = jax.nn.relu(x + y)
    return _conv(params, f"{net}.conv2", x)


def _pyramid(one: Array, other: Array) -> list[Array]:
    """Returns products of all positions (b·h·w, h', w'), averaged over ever more."""
    b, h, w, d = one.shape
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("bijd,bkld->bijkl", one, other, precision=exact) / np.sqrt(d)
    levels = [x.reshape(b * h * w, h, w)]
    for _ in range(_LEVELS - 1):
        x = levels[-1]
        n, h, w = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2)
        levels.append(x.mean((2, 4)))
    return levels


def _looked_up(levels: list[Array], places: Array) -> Array:
    """Returns the products around each place (x, y), those outside as 0."""
    b, h, w, _ = places.shape
    found = []
    for level, x in enumerate(levels):
        at = places.reshape(-1, 2) / 2**level
        found.append(_windows(x, at).reshape(b, h, w, -1))
    return jnp.concatenate(found, axis=-1)


def _windows(x: Array, at: Array) -> Array:
    """Returns bilinear samples (n, x, y) around places (n, 2) of maps (n, h, w)."""
    side, edge = 2 * _RADIUS + 2, 2 * _RADIUS + 3
    low = jnp.floor(at)
    u, v = jnp.moveaxis(at - low, 1, 0)[:, :, None, None]
    limits = np.array([x.shape[2], x.shape[1]]) + _RADIUS
    first = jnp.clip(low, -_RADIUS - 2, limits[None]).astype(int) - _RADIUS + edge
    padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge)))
    cut = jax.vmap(lambda z, i: jax.lax.dynamic_slice(z, (i[1], i[0]), (side, side)))(
        padded, first
    )
    rows = cut[:, :-1] * (1 - v) + cut[:, 1:] * v
    return (rows[:, :, :-1] * (1 - u) + rows[:, :, 1:] * u).transpose(0, 2, 1)


def _motion(params: PyTree, seen: Array, moved: Array) -> Array:
    def relu(name: str, x: Array) -> Array:
        return jax.nn.relu(_conv(params, f"update_block.encoder.{name}", x))

    seen = relu("convc2", relu("convc1", seen))
    flow = relu("convf2", relu("convf1", moved))
    both = relu("conv", jnp.concatenate([seen, flow], -1))
    return jnp.concatenate([both, moved], -1)


def _gru(params: PyTree, h: Array, x: Array) -> Array:
    """Returns the next hidden state, updated along rows and then along columns."""
    for i in (1, 2):

        def gate(name: str, h: Array, i: int = i) -> Array:
            whole = jnp.concatenate([h, x], -1)
            return _conv(params, f"update_block.gru.conv{name}{i}", whole)

        z, r = jax.nn.sigmoid(gate("z", h)), jax.nn.sigmoid(gate("r", h))
        h = (1 - z) * h + z * jnp.tanh(gate("q", r * h))
    return h


def _enlarged(moved: Array, mask: Array) -> Array:
    """Returns the flow of every pixel, a mean over the nine nearest positions."""
    b, h, w, _ = moved.shape
    weights = jax.nn.softmax(mask.reshape(b, h, w, 9, STRIDE, STRIDE), axis=3)
    padded = jnp.pad(STRIDE * moved, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = jnp.stack(
        [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=3
    )
    pixels = jnp.einsum(
        "bhwkrc,bhwkd->bhrwcd", weights, near, precision=jax.lax.Precision.HIGHEST
    )
    return pixels.reshape(b, h * STRIDE, w * STRIDE, 2)

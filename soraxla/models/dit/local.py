"""Convolutions on packed rows, over latents of a frame and of adjacent frames.

A token is a patch of latents, and clips of a row differ in size, so each token's
neighbours are looked up, and their latents placed around the token's.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Float, Int

from soraxla.core.types import Array
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.layers import MLP, Linear, layer_norm, linear

# Steps along (t, h, w); step −1−k is the inverse of step k.
_STEPS = (
    *((0, -1, w) for w in (-1, 0, 1)),
    (0, 0, -1),
    (-1, 0, 0),
    (1, 0, 0),
    (0, 0, 1),
    *((0, 1, w) for w in (-1, 0, 1)),
)
_BEFORE, _AFTER = _STEPS.index((-1, 0, 0)), _STEPS.index((1, 0, 0))


def neighbours(
    positions: Float[Array, "b l 3"], segment_ids: Int[Array, "b l"], segments: int
) -> Int[Array, "b l 10"]:
    """Returns the index in the row of each token's neighbours; −1 if there is none.

    The order is that of `_STEPS`. Tokens of a segment run frame by frame, all of one
    size, and line by line. The previous or next frame is the adjacent one in the
    segment, at any time.

    Args:
        segments: the largest id that occurs.
    """
    place_BL2 = jnp.round(positions[:, :, 1:]).astype(jnp.int32)
    of_BLS = segment_ids[:, :, None] == jnp.arange(1, segments + 1)[None, None, :]
    last_BS2 = jnp.max(
        jnp.where(of_BLS[:, :, :, None], place_BL2[:, :, None, :], 0), axis=1
    )
    segment = jnp.maximum(segment_ids - 1, 0)
    size_BL2 = 1 + jnp.take_along_axis(last_BS2, segment[:, :, None], axis=1)
    height, width = size_BL2[:, :, 0], size_BL2[:, :, 1]
    index = jnp.arange(segment_ids.shape[1])[None, :]
    found = []
    for t, h, w in _STEPS:
        there = index + (t * height + h) * width + w
        inside = (there >= 0) & (there < segment_ids.shape[1])
        there = jnp.where(inside, there, 0)
        id_there = jnp.take_along_axis(segment_ids, there, axis=1)
        place = jnp.take_along_axis(place_BL2, there[:, :, None], axis=1)
        step = jnp.asarray([h, w], jnp.int32)[None, None, :]
        valid = jnp.all(place == place_BL2 + step, axis=-1)
        valid &= inside & (segment_ids > 0) & (id_there == segment_ids)
        if not t:
            times = jnp.take_along_axis(positions[:, :, 0], there, axis=1)
            valid &= times == positions[:, :, 0]
        found.append(jnp.where(valid, there, -1))
    return jnp.stack(found, axis=-1)


@jax.custom_vjp
def fetch_neighbours(x_BLC: Array, there_BL: Array, back_BL: Array) -> Array:
    """Gathers x of the token `there`, 0 if there is none; `back` gathers its gradient.

    No two tokens have one neighbour on the same side, so nothing is summed.
    """
    picked = jax.vmap(lambda x, i: x[i])(x_BLC, jnp.maximum(there_BL, 0))
    return jnp.where((there_BL >= 0)[:, :, None], picked, 0)


def _fetch_forward(x_BLC, there_BL, back_BL):
    return fetch_neighbours(x_BLC, there_BL, back_BL), (there_BL, back_BL)


def _fetch_backward(saved, grad_BLC):
    there_BL, back_BL = saved
    return fetch_neighbours(grad_BLC, back_BL, there_BL), None, None


fetch_neighbours.defvjp(_fetch_forward, _fetch_backward)


def surroundings(
    x: Float[Array, "b l h w c"], near: Int[Array, "b l 10"]
) -> list[Float[Array, "b l h w c"]]:
    """Returns each latent and the eight around it, then those before and after it.

    The nine are in order of lines; the last two are of the previous and next frame.
    """

    def fetch(step: int, part: Array) -> Array:
        flat = part.reshape(*part.shape[:2], -1)
        back = len(_STEPS) - 1 - step
        return fetch_neighbours(flat, near[:, :, step], near[:, :, back]).reshape(
            part.shape
        )

    height, width = x.shape[2:4]
    first, last = slice(None, 1), slice(-1, None)
    lines = [
        [
            fetch(0, x[:, :, last, last]),
            fetch(1, x[:, :, last]),
            fetch(2, x[:, :, last, first]),
        ],
        [fetch(3, x[:, :, :, last]), x, fetch(6, x[:, :, :, first])],
        [
            fetch(7, x[:, :, first, last]),
            fetch(8, x[:, :, first]),
            fetch(9, x[:, :, first, first]),
        ],
    ]
    window = jnp.concatenate([jnp.concatenate(line, 3) for line in lines], 2)
    around = [
        window[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)
    ]
    return [*around, fetch(_BEFORE, x), fetch(_AFTER, x)]


class LocalLayer(nn.Module):
    """A block of ConvNeXt (arXiv 2201.03545): depthwise convolution, norm, MLP.

    It starts as the identity.

    Attributes:
        frames: read the previous and next frame too.
    """

    cfg: DiTConfig
    frames: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], near: Int[Array, "b l 10"]
    ) -> Float[Array, "b n c"]:
        width, dtype = self.cfg.local_width, jnp.dtype(self.cfg.dtype)
        _, ph, pw = self.cfg.patch
        reach = 11 if self.frames else 9
        taps = self.param("taps", nn.initializers.normal(reach**-0.5), (reach, width))
        cells = rearrange(x, "b (l ph pw) c -> b l ph pw c", ph=ph, pw=pw)
        y = jnp.zeros_like(cells)
        for part, tap in zip(surroundings(cells, near)[:reach], taps, strict=True):
            y = y + part * tap.astype(dtype)[None, None, None, None, :]
        y = layer_norm(y.reshape(x.shape)).astype(dtype)
        return x + MLP(2 * width, width, dtype, zero=True, name="mlp")(y)


class LocalLayers(nn.Module):
    """An addition to a prediction from a token's latents and those around them.

    The hidden state of a token, spread over its latents, joins their candidate values
    in blocks of convolutions. Without them, tokens agree only through attention, which
    is not enough for a shape that covers several. It starts by adding 0.

    Attributes:
        layers: number of blocks.
        frames: as in `LocalLayer`.
    """

    cfg: DiTConfig
    layers: int
    frames: bool = True

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "b l d"],
        candidates: Float[Array, "b l k p"],
        near: Int[Array, "b l 10"],
    ) -> Float[Array, "b l p"]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        pt, ph, pw = cfg.patch
        sides = {"pt": pt, "ph": ph, "pw": pw}
        latents = rearrange(
            candidates, "b l k (pt ph pw c) -> b (l ph pw) (k pt c)", **sides
        )
        x = linear(cfg.local_width, dtype, name="latent_proj")(latents)
        spread = linear(ph * pw * cfg.local_width, dtype, name="hidden_proj")(hidden)
        x = x + spread.reshape(x.shape)
        layer = LocalLayer if cfg.remat == "none" else nn.remat(LocalLayer)
        for i in range(self.layers):
            x = layer(cfg, self.frames, name=f"layer_{i}")(x, near)
        zeros = nn.initializers.zeros
        head = Linear(pt * cfg.latent_channels, dtype, zeros, jnp.float32, name="head")
        added = head(layer_norm(x).astype(dtype))
        return rearrange(added, "b (l ph pw) (pt c) -> b l (pt ph pw c)", **sides)


class Forecast(nn.Module):
    """A forecast of a frame from the two before it: the last one, plus a correction.

    It does not see the frame, so it can train on every frame of a clip at once, with
    almost no noise. It starts as a copy of the last frame.
    """

    cfg: DiTConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l p"],
        level: Float[Array, "b l"],
        near: Int[Array, "b l 10"],
    ) -> Float[Array, "b l p"]:
        """Returns the forecast; `level` is 1 for clean x, 0 for noise or no frame."""

        def before(y: Array) -> Array:
            return fetch_neighbours(y, near[:, :, _BEFORE], near[:, :, _AFTER])

        x = jnp.concatenate([x, level[:, :, None].astype(x.dtype)], axis=-1)
        last = before(x)
        both = jnp.stack([last, before(last)], axis=2)
        past, levels = both[..., :-1], both[..., -1]
        layers = LocalLayers(self.cfg, self.cfg.forecast_layers, False, name="layers")
        return past[:, :, 0] + layers(levels, past, near)

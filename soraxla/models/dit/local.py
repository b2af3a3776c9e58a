"""Convolutions on packed rows, over latents of a frame and of the frames beside it.

A token is a patch of latents, and clips of a row differ in size. So a token's
neighbours are looked up, and their latents laid around its own.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Float, Int

from soraxla.core.types import Array
from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.layers import MLP, Linear, layer_norm, linear

# Steps along (t, h, w); the way back from step k is step −1−k.
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
    """Where in the row each token's neighbours are, by `_STEPS`; −1 where none is.

    Tokens of a segment run frame by frame, all of one size, and line by line. The frame
    before or after one is what stands there in the segment, whatever its time.

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
    own = jnp.arange(segment_ids.shape[1])[None, :]
    found = []
    for t, h, w in _STEPS:
        there = own + (t * height + h) * width + w
        inside = (there >= 0) & (there < segment_ids.shape[1])
        there = jnp.where(inside, there, 0)
        id_there = jnp.take_along_axis(segment_ids, there, axis=1)
        place = jnp.take_along_axis(place_BL2, there[:, :, None], axis=1)
        step = jnp.asarray([h, w], jnp.int32)[None, None, :]
        as_meant = jnp.all(place == place_BL2 + step, axis=-1)
        as_meant &= inside & (segment_ids > 0) & (id_there == segment_ids)
        if not t:
            times = jnp.take_along_axis(positions[:, :, 0], there, axis=1)
            as_meant &= times == positions[:, :, 0]
        found.append(jnp.where(as_meant, there, -1))
    return jnp.stack(found, axis=-1)


@jax.custom_vjp
def _fetch(x_BLC: Array, there_BL: Array, back_BL: Array) -> Array:
    """x of the token `there`, 0 where none is; its gradient goes the way back.

    No two tokens have one neighbour on the same side, so that nothing is added up.
    """
    picked = jax.vmap(lambda x, i: x[i])(x_BLC, jnp.maximum(there_BL, 0))
    return jnp.where((there_BL >= 0)[:, :, None], picked, 0)


def _fetch_fwd(x_BLC, there_BL, back_BL):
    return _fetch(x_BLC, there_BL, back_BL), (there_BL, back_BL)


def _fetch_bwd(saved, grad_BLC):
    there_BL, back_BL = saved
    return _fetch(grad_BLC, back_BL, there_BL), None, None


_fetch.defvjp(_fetch_fwd, _fetch_bwd)


def surroundings(
    x: Float[Array, "b l h w c"], near: Int[Array, "b l 10"]
) -> list[Float[Array, "b l h w c"]]:
    """Each latent and the eight around it, line by line, then those of the frames
    before and after it."""

    def fetch(step: int, part: Array) -> Array:
        flat = part.reshape(*part.shape[:2], -1)
        back = len(_STEPS) - 1 - step
        return _fetch(flat, near[:, :, step], near[:, :, back]).reshape(part.shape)

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
    """A block of ConvNeXt (arXiv 2201.03545): each channel's convolution, norm, MLP.

    Starts as the identity.

    Attributes:
        frames: the frames before and after one are read too.
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
    """What a token's latents and those around them add to a prediction.

    The hidden state of a token, spread over its latents, meets the numbers at hand of
    each of them, in blocks of convolutions. Tokens alone agree with each other
    only through attention; a shape that lies across several wants more. Starts by
    adding 0.

    Attributes:
        layers: how many.
        frames: as of a `LocalLayer`.
    """

    cfg: DiTConfig
    layers: int
    frames: bool = True

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "b l d"],
        at_hand: Float[Array, "b l k p"],
        near: Int[Array, "b l 10"],
    ) -> Float[Array, "b l p"]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        pt, ph, pw = cfg.patch
        sides = {"pt": pt, "ph": ph, "pw": pw}
        latents = rearrange(
            at_hand, "b l k (pt ph pw c) -> b (l ph pw) (k pt c)", **sides
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
    """What a frame is to be, told by the two before it: the last, and what they add.

    It sees nothing of the frame itself, so that it can be learnt from every frame of a
    clip at once, with next to no noise. Starts as a copy of the last.
    """

    cfg: DiTConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l p"],
        level: Float[Array, "b l"],
        near: Int[Array, "b l 10"],
    ) -> Float[Array, "b l p"]:
        """`level` is how much of x is no noise: 1 clean … 0; it is 0 of no frame."""

        def before(y: Array) -> Array:
            return _fetch(y, near[:, :, _BEFORE], near[:, :, _AFTER])

        x = jnp.concatenate([x, level[:, :, None].astype(x.dtype)], axis=-1)
        last = before(x)
        both = jnp.stack([last, before(last)], axis=2)
        past, levels = both[..., :-1], both[..., -1]
        layers = LocalLayers(self.cfg, self.cfg.forecast_layers, False, name="layers")
        return past[:, :, 0] + layers(levels, past, near)

"""Latents that are a linear map of the pixels they cover, as principal components are.

Frame 0 has one map, and every later block of frames shares another. No chunk needs the
chunk before. Without training such a VAE reconstructs as well as the principal
components of its clips (`principal_components`); gradient descent takes hours to reach
that start for a decoder that adds to them.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float

from soraxla.core.types import Array
from soraxla.models.vae.layers import Stream

_BLOCK = "b (t f) (h p) (w q) c -> b t h w (f p q c)"


class ToLatents(nn.Module):
    """Pixels (B,1+fk,sh,sw,3), or fk frames of a later chunk, to (B,1+k,h,w,z)."""

    frames: int
    side: int
    channels: int

    @nn.compact
    def __call__(self, x: Array, stream: Stream) -> Array:
        return jnp.concatenate(
            [
                nn.Dense(self.channels, name=name)(
                    rearrange(part, _BLOCK, f=frames, p=self.side, q=self.side)
                )
                for name, part, frames in _parts(x, self.frames, stream)
            ],
            axis=1,
        )


class ToPixels(nn.Module):
    """Latents (B,1+k,h,w,z) to pixels (B,1+fk,sh,sw,3)."""

    frames: int
    side: int

    @nn.compact
    def __call__(self, z: Array, stream: Stream) -> Array:
        back = " -> ".join(reversed(_BLOCK.split(" -> ")))
        return jnp.concatenate(
            [
                rearrange(
                    nn.Dense(3 * frames * self.side**2, name=name)(part),
                    back,
                    f=frames,
                    p=self.side,
                    q=self.side,
                )
                for name, part, frames in _parts(z, self.frames, stream)
            ],
            axis=1,
        )


def _parts(x: Array, frames: int, stream: Stream) -> list[tuple[str, Array, int]]:
    """Returns the name, the part of the chunk and the frames per latent of each map."""
    first, later = (x[:, :1], x[:, 1:]) if stream.first else (x[:, :0], x)
    parts = [("first", first, 1), ("later", later, frames)]
    return [part for part in parts if part[1].shape[1]]


def principal_components(
    clips: list[Float[np.ndarray, "t h w 3"]], *, frames: int, side: int, channels: int
) -> tuple[dict[str, dict], dict[str, dict]]:
    """Returns parameters of `ToLatents` and `ToPixels`: components of most variance.

    The components of frame 0 are rotated to agree with those of a block that repeats
    frame 0.

    Args:
        clips: of 1 + `frames`·k frames, pixels in −1…1.
    """
    stills = np.concatenate([_blocks(clip[:1], 1, side) for clip in clips])
    blocks = np.concatenate([_blocks(clip[1:], frames, side) for clip in clips])
    mean, basis = components(blocks, channels)
    still_mean, still_basis = components(stills, channels)
    # Orthogonal Procrustes: the rotation that brings one set of latents to the other.
    repeated = np.tile((stills - still_mean)[:, None], (1, frames, 1))
    wanted = repeated.reshape(len(stills), -1) @ basis
    u, _, vt = np.linalg.svd(((stills - still_mean) @ still_basis).T @ wanted)
    still_basis = still_basis @ (u @ vt)
    down, up = {}, {}
    for name, m, b in (("first", still_mean, still_basis), ("later", mean, basis)):
        down[name] = {"kernel": jnp.asarray(b), "bias": jnp.asarray(-m @ b)}
        up[name] = {"kernel": jnp.asarray(b.T), "bias": jnp.asarray(m)}
    return down, up


def _blocks(clip: np.ndarray, frames: int, side: int) -> Float[np.ndarray, "n d"]:
    parts = rearrange(clip[None], _BLOCK, f=frames, p=side, q=side)
    return np.asarray(parts, np.float32).reshape(-1, parts.shape[-1])


def components(
    x: Float[np.ndarray, "n d"], channels: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d z"]]:
    """Returns the mean of rows and their components, those of most variance first."""
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    _, vectors = np.linalg.eigh(covariance.astype(np.float64))
    return mean, np.ascontiguousarray(vectors[:, ::-1][:, :channels], np.float32)

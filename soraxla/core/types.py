"""The legend of dimensions and the data structures that all packages share.

Dimensions: B row, L token, S segment, M text token, T H W latent grid, P patch dim, D
model width, C channel, E text width, N heads, K head dim. Pixel videos are
``video_BTHWC`` with T frames and C = 3.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt32

Array = jax.Array | np.ndarray


@dataclass(frozen=True, kw_only=True)
class LatentGrid:
    """The size of a clip in latents: `t` latent frames of `h` x `w` positions."""

    t: int
    h: int
    w: int


class PackedBatch(NamedTuple):
    """B rows of L tokens, each row with up to S segments (clips) end to end.

    Segment ids run from 1 to S in row order; id 0 is padding, at the end of a row only.
    Text is packed the same way, with at least one token per segment. The model derives
    every other quantity from these.
    """

    latents: Float[Array, "b l p"]  # normalised x0, patches in (pt, ph, pw, c) order
    segment_ids: Int[Array, "b l"]
    token_index: Int[Array, "b l"]  # index of the token in its segment
    positions: Float[Array, "b l 3"]  # t in rope_fps latent units, h, w in patches
    condition_mask: Bool[Array, "b l"]  # condition tokens, in place
    controls: Float[Array, "b l a"]  # actions and camera; a = 0 for most models
    features: Float[Array, "b l f"]  # to align a training's tokens with; f = 0 for most
    text: Float[Array, "b m e"]
    text_segment_ids: Int[Array, "b m"]
    visit: UInt32[Array, "b s"]  # number in the endless stream of visits: the noise key
    shift: Float[Array, "b s"]  # α of the time shift t = αu / (1 + (α−1)u)


def latent_frames(frames: int, temporal: int = 4) -> int:
    """Returns the number of latent frames of a clip of 1 + temporal·k frames."""
    return 1 + (frames - 1) // temporal

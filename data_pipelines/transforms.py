"""From frames of any size to pieces that the VAE and the patches divide.

Nothing is resampled: a side loses less than a patch of pixels, a clip at most 3 frames
at its end (or a last piece too short to show motion), and a long clip is cut in time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from soraxla.core.errors import UserError

SPATIAL, TEMPORAL = 8, 4  # pixels and frames a latent, of most causal VAEs
PATCH = (1, 2, 2)  # latents a token
_SHORTEST_REST = 1 + TEMPORAL  # frames of the last piece of a clip that was cut


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Piece(NamedTuple):
    """1 + 4k frames of a clip, cropped to `box`, from its frame number `start` on."""

    start: int
    box: Box
    frames: UInt8[np.ndarray, "t h w 3"]


def crop_box(height: int, width: int, spatial: int = SPATIAL) -> Box:
    """The centred box whose sides are the largest multiples of a patch that fit.

    Raises UserError for a side below a patch, 16 pixels when a latent covers 8.
    """
    multiple = spatial * PATCH[1]
    if min(height, width) < multiple:
        raise UserError(
            f"is {width}x{height} pixels, but a side needs at least {multiple}"
        )
    box_height, box_width = (side // multiple * multiple for side in (height, width))
    return Box(
        top=(height - box_height) // 2,
        left=(width - box_width) // 2,
        height=box_height,
        width=box_width,
    )


def piece_frames(box: Box, max_tokens: int, spatial: int = SPATIAL) -> int:
    """The most frames, 1 + 4k, that make at most `max_tokens` tokens.

    Raises UserError if a single frame makes more.
    """
    multiple = spatial * PATCH[1]
    a_frame = (box.height // multiple) * (box.width // multiple)
    latents = max_tokens // a_frame
    if latents < 1:
        raise UserError(
            f"one frame of {box.width}x{box.height} pixels makes {a_frame} tokens, "
            f"more than the {max_tokens} allowed; raise --max-tokens or scale it down"
        )
    return 1 + TEMPORAL * (latents - 1)


def pieces(
    frames: Iterable[np.ndarray], max_tokens: int, spatial: int = SPATIAL
) -> Iterator[Piece]:
    """Crops frames (H, W, 3) to `crop_box` and cuts them into pieces, streamed.

    Every piece has the most frames that `max_tokens` allows, but the last, which is
    trimmed to 1 + 4k. A last piece of one frame that follows others is left out: the
    caption's action does not happen in it. No more than one piece is held.

    Raises UserError if the frames are too small or too large for any piece.
    """
    held: list[np.ndarray] = []
    start, box, longest = 0, None, 0
    for frame in frames:
        if box is None:
            box = crop_box(frame.shape[0], frame.shape[1], spatial)
            longest = piece_frames(box, max_tokens, spatial)
        rows = slice(box.top, box.top + box.height)
        # A copy: a view would keep the whole frame alive.
        held.append(frame[rows, box.left : box.left + box.width].copy())
        if len(held) == longest:
            yield Piece(start, box, np.stack(held))
            start += longest
            held = []
    rest = 1 + (len(held) - 1) // TEMPORAL * TEMPORAL
    if box is not None and held and (start == 0 or rest >= _SHORTEST_REST):
        yield Piece(start, box, np.stack(held[:rest]))

"""Cuts frames of any size into pieces that the VAE and the patches divide.

Nothing is resampled here: a side loses less than a patch of pixels, a clip at most 3
frames at its end (or a last piece too short to show motion), and a long clip is cut in
time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from soraxla.core.errors import UserError

SPATIAL, TEMPORAL = 8, 4  # pixels and frames per latent, in most causal VAEs
PATCH = (1, 2, 2)  # latents per token
_SHORTEST_REST = 1 + TEMPORAL  # frames of the last piece of a cut clip


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Piece(NamedTuple):
    """A piece of 1 + 4k frames of a clip, cropped to `box`, from frame `start`."""

    start: int
    box: Box
    frames: UInt8[np.ndarray, "t h w 3"]


def crop_box(height: int, width: int, spatial: int = SPATIAL) -> Box:
    """Returns the largest centred box whose sides are multiples of a patch.

    Raises:
        UserError: a side is below a patch, 16 pixels if a latent covers 8.
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
    """Returns the most frames, 1 + 4k, that make at most `max_tokens` tokens.

    Raises:
        UserError: a single frame makes more.
    """
    tokens = frame_tokens(box, spatial)
    if tokens > max_tokens:
        raise UserError(_too_large("one frame", box, tokens, max_tokens))
    return 1 + TEMPORAL * (max_tokens // tokens - 1)


def frame_tokens(box: Box, spatial: int = SPATIAL) -> int:
    """Returns the tokens of a frame's latents."""
    multiple = spatial * PATCH[1]
    return (box.height // multiple) * (box.width // multiple)


def _too_large(what: str, box: Box, tokens: int, most: int) -> str:
    return (
        f"{what} of {box.width}x{box.height} pixels makes {tokens} tokens, more than "
        f"the {most} allowed; raise --max-tokens or scale it down"
    )


def pieces(
    frames: Iterable[np.ndarray], max_tokens: int, spatial: int = SPATIAL
) -> Iterator[Piece]:
    """Crops frames (H, W, 3) to `crop_box` and yields them in pieces.

    Every piece has the most frames that `max_tokens` allows, except the last, which is
    trimmed to 1 + 4k. A last piece of one frame after others is dropped: the caption's
    action does not happen in it. At most one piece is in memory.

    Raises:
        UserError: the frames are too small for a piece, or so large that a clip's
            pieces would have one frame each.
    """
    held: list[np.ndarray] = []
    start, box, longest = 0, None, 0
    for frame in frames:
        if start and longest == 1:  # the second frame of a film
            assert box is not None
            most, tokens = 1 + TEMPORAL, 2 * frame_tokens(box, spatial)
            raise UserError(_too_large(f"{most} frames", box, tokens, max_tokens))
        if box is None:
            box = crop_box(frame.shape[0], frame.shape[1], spatial)
            longest = piece_frames(box, max_tokens, spatial)
        rows = slice(box.top, box.top + box.height)
        # A view would keep the whole frame in memory.
        held.append(frame[rows, box.left : box.left + box.width].copy())
        if len(held) == longest:
            yield Piece(start, box, np.stack(held))
            start += longest
            held = []
    rest = 1 + (len(held) - 1) // TEMPORAL * TEMPORAL
    if box is not None and held and (start == 0 or rest >= _SHORTEST_REST):
        yield Piece(start, box, np.stack(held[:rest]))

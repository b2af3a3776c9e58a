"""The sizes of a dataset's samples, and whether they can be packed. NumPy only."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from soraxla.core.errors import UserError
from soraxla.packing.conditioning import Stored
from soraxla.packing.pack import PackConfig
from soraxla.packing.tasks import SHARES
from soraxla.packing.visit_order import VisitOrder, one_dataset

_PART = 1 << 24  # samples


@dataclass(frozen=True, kw_only=True, eq=False)
class ScheduleIndex:
    """Sizes of N samples, one array entry a sample: all that a schedule sees."""

    t: Int[np.ndarray, " n"]  # latent frames; 1 for a picture
    h: Int[np.ndarray, " n"]  # latents
    w: Int[np.ndarray, " n"]
    fps: Float[np.ndarray, " n"]  # of the pixels; 0 for a picture
    text_length: Int[np.ndarray, " n"]  # text tokens of the caption
    height: Int[np.ndarray, " n"]  # pixels
    width: Int[np.ndarray, " n"]
    empty_text_length: int  # text tokens of the empty caption
    patch: tuple[int, int, int] = (1, 2, 2)
    stored: Stored | None = None  # conditions that the dataset holds
    order: VisitOrder | None = None  # of visits; None for one dataset that did not grow

    def __len__(self) -> int:
        return len(self.t)

    def subset(self, samples: Int[np.ndarray, " k"]) -> "ScheduleIndex":
        """Returns the index of some of the samples, which ascend if it has an order."""
        sizes = {
            name: column[samples]
            for name, column in vars(self).items()
            if isinstance(column, np.ndarray)
        }
        stored = self.stored and Stored(*(column[samples] for column in self.stored))
        order = self.order and self.order.subset(samples)
        return replace(self, **sizes, stored=stored, order=order)

    @property
    def visit_order(self) -> VisitOrder:
        """The order of visits."""
        return self.order or one_dataset(len(self))


def check_index(index: ScheduleIndex, config: PackConfig) -> None:
    """Raises UserError when a sample cannot be packed into a row of `config`.

    Refused: an index with no sample, latents the patch does not divide, a picture
    (or one latent frame of a clip) over the row, a caption over the text budget or
    of no token, a clip without a frame rate.
    """
    if len(index) == 0:
        raise UserError("the index holds no sample: prepare a dataset with at least 1")

    def size(i: int) -> str:
        return f"sample {i} ({index.width[i]}x{index.height[i]} pixels)"

    bad = np.zeros(len(index), bool)
    for side, patch in zip((index.t, index.h, index.w), index.patch, strict=True):
        bad |= (side < 1) | (side % patch != 0)
    if bad.any():
        worst = int(bad.argmax())
        sides = tuple(int(side[worst]) for side in (index.t, index.h, index.w))
        raise UserError(
            f"{size(worst)} has latents of {sides} (t, h, w),"
            f" which patches of {index.patch} do not divide: prepare the dataset again"
        )
    most, worst = max(_largest_frames(index), key=lambda found: found[0])
    if most > config.row_length:
        what = "a picture" if index.t[worst] == 1 else "one latent frame"
        raise UserError(
            f"{size(worst)} has {most} tokens in {what}, more than a row of"
            f" {config.row_length}: set row_length to at least {most}"
        )
    longest = max(int(index.text_length.max()), index.empty_text_length)
    if longest > config.text_length:
        raise UserError(
            f"the longest caption has {longest} text tokens, more than a row's"
            f" {config.text_length}: set text_length to at least {longest}"
        )
    if min(int(index.text_length.min()), index.empty_text_length) < 1:
        raise UserError(
            "a caption has no text token: its encoder must give at least 1 for any text"
        )
    _check_mixture(index, config)
    still = (index.t > 1) & ~(index.fps > 0)
    if still.any():
        worst = int(still.argmax())
        raise UserError(
            f"{size(worst)} is a clip of {index.t[worst]} latent frames with no frame"
            f" rate (fps {index.fps[worst]}): prepare the dataset again"
        )


def slices(samples: slice) -> Iterator[slice]:
    """Yields parts of a slice: temporary arrays of all samples would be too large."""
    for first in range(samples.start, samples.stop, _PART):
        yield slice(first, min(first + _PART, samples.stop))


def _largest_frames(index: ScheduleIndex) -> Iterator[tuple[int, int]]:
    """Yields the tokens of the largest frame of each part, and its sample."""
    for part in slices(slice(0, len(index))):
        frame = frame_tokens(index, part)
        worst = int(frame.argmax())
        yield int(frame[worst]), part.start + worst


def _check_mixture(index: ScheduleIndex, config: PackConfig) -> None:
    asked = [task for task in SHARES[1:] if getattr(config.mixture, task)]
    if config.next_share:
        asked.append("next_share")
    if asked and index.patch[0] != 1:
        raise UserError(
            f"the mixture asks for {asked[0]}, but patches of {index.patch} join latent"
            " frames: set its shares to none 1 and next_share to 0, or prepare with "
            "patches of one frame"
        )
    lacking = [x for x in asked if x not in ("first", "prefix", "next_share")]
    if lacking and index.stored is None:
        raise UserError(
            f"the mixture asks for {', '.join(lacking)}, but the dataset holds no "
            "conditions: prepare it again with them, or set these shares to 0"
        )


def frame_tokens(
    index: ScheduleIndex, samples: Int[np.ndarray, " k"] | slice
) -> Int[np.ndarray, " k"]:
    """Returns the tokens of one step of the patch grid along time."""
    _, ph, pw = index.patch
    h, w = index.h[samples].astype(np.int64), index.w[samples].astype(np.int64)
    return (h // ph) * (w // pw)


def most_tokens(
    index: ScheduleIndex, config: PackConfig, samples: Int[np.ndarray, " k"] | slice
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Returns the most latent frames of each clip that fit a row, and their tokens.

    Cutting a clip after any latent is exact: the VAE is causal, so the first latents
    of a clip are the latents of its first frames.
    """
    pt = index.patch[0]
    frame = frame_tokens(index, samples)
    steps = np.minimum(index.t[samples] // pt, config.row_length // frame)
    return steps * pt, steps * frame


def longest(index: ScheduleIndex, config: PackConfig) -> int:
    """Returns the most latent frames that a row has of one clip."""
    parts = slices(slice(0, len(index)))
    return max(int(most_tokens(index, config, part)[0].max()) for part in parts)


def median_clip(
    index: ScheduleIndex, config: PackConfig, *, temporal: int
) -> dict[str, float | int]:
    """Returns width, height, frames and fps of the median sample, as rows have it.

    The size is that of the sample of median area; fps is that of clips only, and left
    out without any. Of an even number of samples, the larger middle one counts.

    Args:
        temporal: frames of a latent frame.
    """

    def middle(values: np.ndarray) -> int:
        return int(np.argsort(values, kind="stable")[len(values) // 2])

    latents = most_tokens(index, config, slice(None))[0]
    at = middle(index.height.astype(np.int64) * index.width)
    found: dict[str, float | int] = {
        "width": int(index.width[at]),
        "height": int(index.height[at]),
        "frames": 1 + temporal * (int(latents[middle(latents)]) - 1),
    }
    rates = index.fps[index.t > 1]
    return {"fps": float(rates[middle(rates)]), **found} if len(rates) else found

"""The frames of a clip that a captioner sees: few, small, and cut into patches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from soraxla.core.errors import UserError
from soraxla.packing.pack import Segment

_SPARE = 8  # frames kept for each one that is shown, until the clip's length is known
_RATE = 4.0  # positions a second: a latent frame at 16 frames a second


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """The frames of a clip that a captioner sees.

    Attributes:
        frames: most frames, evenly spaced over the clip.
        side: most pixels of a frame's longer side; larger frames are scaled down.
        patch: pixels from a token to the next.
        margin: pixels around its patch that a token also shows; past the border of a
            frame, the border's pixels go on.
        square: crop the middle square of a frame and scale it to `side`, for towers
            that were trained on one size.
    """

    frames: int = 6
    side: int = 224
    patch: int = 16
    margin: int = 0
    square: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "side", "patch"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"view.{name} is {getattr(self, name)}, expected at least 1"
                )
        if self.margin < 0:
            raise UserError(f"view.margin is {self.margin}, expected at least 0")
        if self.side < self.patch or (self.square and self.side % self.patch):
            raise UserError(
                f"view.side is {self.side}, which patches of {self.patch} pixels do "
                "not fit; change view.side or view.patch"
            )

    @property
    def window(self) -> int:
        """The pixels of a token's side."""
        return self.patch + 2 * self.margin

    @property
    def most_tokens(self) -> int:
        """The tokens of the largest clip."""
        return self.frames * (self.side // self.patch) ** 2


class View(NamedTuple):
    """The frames that are shown, and their times in seconds from the clip's start."""

    pixels: UInt8[np.ndarray, "t h w 3"]
    times: Float[np.ndarray, " t"]


def view(frames: Iterator[np.ndarray], fps: float, cfg: ViewConfig) -> View:
    """Returns the view of a stream of frames (H, W, 3); 0 fps are a picture.

    Raises:
        UserError: there is no frame, or they are smaller than a patch.
    """
    kept: list[tuple[int, np.ndarray]] = []
    step, last = 1, None
    for number, frame in enumerate(frames):
        last = number, frame
        if number % step:
            continue
        kept.append((number, _scaled(frame, cfg)))
        if len(kept) > _SPARE * cfg.frames:  # the clip is long: keep every other one
            kept, step = kept[::2], 2 * step
    if last is None:
        raise UserError("holds no frame; remove it")
    if kept[-1][0] != last[0]:
        kept.append((last[0], _scaled(last[1], cfg)))
    count = min(cfg.frames, last[0] + 1)
    wanted = np.linspace(0, last[0], count)
    numbers = np.array([number for number, _ in kept])
    chosen = sorted({int(np.abs(numbers - at).argmin()) for at in wanted})
    times = numbers[chosen] / fps if fps else np.zeros(len(chosen))
    return View(np.stack([kept[i][1] for i in chosen]), times)


def view_array(
    video: UInt8[np.ndarray, "t h w 3"], fps: float, cfg: ViewConfig
) -> View:
    """Returns the view of a clip in memory; see `view`."""
    return view(iter(video), fps, cfg)


def _scaled(frame: UInt8[np.ndarray, "h w 3"], cfg: ViewConfig) -> np.ndarray:
    """Scales a frame and crops the middle of whole patches."""
    height, width = frame.shape[:2]
    if cfg.square:
        scale = cfg.side / min(height, width)
    else:
        scale = min(1.0, cfg.side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size != (width, height):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        frame = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    most = cfg.side if cfg.square else max(frame.shape)
    rows, columns = (min(n, most) // cfg.patch * cfg.patch for n in frame.shape[:2])
    if not rows or not columns:
        raise UserError(
            f"has {width}x{height} pixels, less than a patch of {cfg.patch}; remove it"
        )
    top, left = (frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2
    return np.ascontiguousarray(frame[top : top + rows, left : left + columns])


def segment(shown: View, cfg: ViewConfig, text: np.ndarray, visit: int = 0) -> Segment:
    """Returns a view and its text as a segment of a row.

    Tokens are windows of pixels in −1…1, of (3, window, window) numbers, in the order
    of time, height, width. Their times have 4 positions a second.

    Args:
        text: (M, 2), each token of the caption beside the next one.
    """
    t, height, width, _ = shown.pixels.shape
    p, h, w = cfg.patch, height // cfg.patch, width // cfg.patch
    around = ((0, 0), (cfg.margin,) * 2, (cfg.margin,) * 2, (0, 0))
    x = np.pad(shown.pixels, around, mode="edge")
    x = sliding_window_view(x, (cfg.window, cfg.window), axis=(1, 2))[:, ::p, ::p]
    tokens = x.reshape(t * h * w, -1).astype(np.float32) / 127.5 - 1.0
    grid = np.meshgrid(_RATE * shown.times, np.arange(h), np.arange(w), indexing="ij")
    positions = np.stack(grid, axis=-1).reshape(-1, 3).astype(np.float32)
    return Segment(
        tokens=tokens,
        positions=positions,
        text=text.astype(np.float32),
        visit=visit,
        shift=1.0,
    )

"""Blending of input frames: brought to size, and faded into the generated frames."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.ndimage import uniform_filter

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.media.lazy_video import Frame, LazyVideo, Video, lazy

FADE = 4  # generated frames over which the difference at a join fades
RIM = 8  # generated pixels over which the difference fades around a hole
# Largest steps without motion, of 255, mean over 5 x 5 pixels: at a join, and beside
# one.
SLIGHT, AT_REST = 10.0, 4.0

FITS = ("cover", "crop", "pad")


def fit(
    video: UInt8[np.ndarray, "t _ _ 3"], width: int, height: int, how: str
) -> UInt8[np.ndarray, "t {height} {width} 3"]:
    """Returns the frames at the requested size; frames of that size are unchanged.

    "cover" scales a frame until it covers the size and crops the centre, "crop" crops
    without scaling, "pad" scales a frame until it fits and pads with black.

    Raises:
        UserError: "crop" of frames that are smaller than the size.
    """
    rows, columns = video.shape[1:3]
    if (rows, columns) == (height, width):
        return video
    if how == "cover":
        scale = min(rows / height, columns / width)  # input pixels per output pixel
        cut = _centre(video, *(max(1, round(x * scale)) for x in (height, width)))
        return _scaled(cut, width, height)
    if how == "crop":
        if rows < height or columns < width:
            raise UserError(
                f"{columns}x{rows} pixels cannot be cropped to {width}x{height}: "
                "choose a smaller size, or cover or pad instead of crop"
            )
        return _centre(video, height, width)
    scale = max(rows / height, columns / width)
    inner = [max(1, round(side / scale)) for side in (rows, columns)]
    out = np.zeros((len(video), height, width, 3), np.uint8)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    out[:, top : top + inner[0], left : left + inner[1]] = _scaled(
        video, inner[1], inner[0]
    )
    return out


def fitted(video: Video, width: int, height: int, how: str) -> LazyVideo:
    """Returns the video with every frame brought to a size by `fit`, when it is read.

    Errors of `fit` appear when the frames are read.
    """
    if video.shape[1:3] == (height, width):
        return lazy(video)
    return lazy(video).each(
        lambda frame: fit(frame[None], width, height, how)[0], height, width
    )


def _centre(video: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (video.shape[1] - height) // 2, (video.shape[2] - width) // 2
    return video[:, top : top + height, left : left + width]


def _scaled(video: np.ndarray, width: int, height: int) -> np.ndarray:
    if video.shape[1:3] == (height, width):
        return video
    lanczos = Image.Resampling.LANCZOS
    frames = (
        Image.fromarray(frame).resize((width, height), lanczos) for frame in video
    )
    return np.stack([np.asarray(frame) for frame in frames])


def whole_patches(
    hole: Bool[np.ndarray, "h w"], side: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Dilates the hole to patches of `side` (height, width) pixels, which divide it."""
    h, w = (n // s for n, s in zip(hole.shape, side, strict=True))
    patches = hole.reshape(h, side[0], w, side[1]).any(axis=(1, 3))
    return np.repeat(np.repeat(patches, side[0], axis=0), side[1], axis=1)


def cross_fade(before: Video, after: Video) -> LazyVideo:
    """Fades the first clip into the second, slowly at both ends (6w⁵ − 15w⁴ + 10w³).

    Both have one length and size.
    """
    one, other = lazy(before), lazy(after)
    w = np.arange(1, len(one) + 1) / (len(one) + 1)
    w = w**3 * (6 * w**2 - 15 * w + 10)

    def read(start: int, stop: int) -> Iterator[Frame]:
        frames = one.read(start, stop), other.read(start, stop)
        for x, a, b in zip(w[start:stop], *frames, strict=True):
            mixed = (1 - x) * a
            mixed += x * b
            yield _to_uint8(mixed)

    return LazyVideo(one.shape, read)


def with_frames(
    video: Video, start: int, stop: int, before: Video, after: Video
) -> LazyVideo:
    """Returns the frames start…stop of a video, faded into the input frames beside.

    The video's frames before `start` and from `stop` on are the VAE's versions of input
    frames: `before` is the last one of the former, `after` the first one of the latter,
    each of one frame, or of none if there is none. The difference between the two
    versions is carried over to the next `FADE` frames, fading; between two input frames
    both are mixed. Where nothing moves, so is the step to the first new frame: still
    regions do not jump.
    """
    source = lazy(video)
    sides = ((start - 1, 1, before), (stop, -1, after))
    joins = {join: (side, frame) for join, side, frame in sides if len(frame)}

    def read(first: int, last: int) -> Iterator[Frame]:
        first, last = start + first, start + last
        # A difference depends on the frames up to two from its join.
        near = [join for join in joins if first - FADE <= join < last + FADE]
        begin = max(min([first, *(join - 2 for join in near)]), 0)
        end = min(max([last, *(join + 3 for join in near)]), len(source))
        held = _Held(source.read(begin, end), begin)
        carried: dict[int, Float[np.ndarray, "h w 3"]] = {}
        for f in range(first, last):
            weights = {join: 1 - abs(f - join) / (FADE + 1) for join in joins}
            weights = {join: weight for join, weight in weights.items() if weight > 0}
            carried = {join: carried[join] for join in weights if join in carried}
            for join in weights.keys() - carried.keys():
                side, frame = joins[join]
                beside, new = [], join + side
                if 0 <= join - side < len(source):
                    beside.append((join - side, join))
                if start <= new + side < stop:
                    beside.append((new, new + side))
                [shown] = frame
                carried[join] = _carried_difference(held, join, new, beside, shown)
            out = held[f]
            if weights:
                total = max(1.0, sum(weights.values()))
                parts = (w / total * carried[join] for join, w in weights.items())
                faded = next(parts)
                for part in parts:
                    faded += part
                faded += out
                out = _to_uint8(faded)
            yield out
            held.forget(f)

    return LazyVideo((stop - start, *source.shape[1:]), read)


class _Held:
    """The frames of a stream by their index; it can forget the earlier ones."""

    def __init__(self, frames: Iterator[Frame], first: int):
        self._frames, self._next = frames, first
        self._held: dict[int, Frame] = {}

    def __getitem__(self, index: int) -> Frame:
        while self._next <= index:
            self._held[self._next] = next(self._frames)
            self._next += 1
        return self._held[index]

    def forget(self, before: int) -> None:
        """Forgets the frames before an index."""
        for index in [i for i in self._held if i < before]:
            del self._held[index]


def _carried_difference(
    video: _Held, join: int, new: int, beside: list[tuple[int, int]], frame: Frame
) -> Float[np.ndarray, "h w 3"]:
    """Returns the difference that new frames beside the frame `join` inherit.

    `new` is the new frame next to it, `beside` the steps next to the one between these
    two, and `frame` the input frame. A small step, or one between frames at rest, is an
    error of the VAE or the model, not motion.
    """

    def moved(a: int, b: int) -> Float[np.ndarray, "h w"]:
        step = _difference(video[a], video[b])
        return uniform_filter(np.abs(step, out=step).mean(-1), 5, mode="nearest")

    still = _up_to(SLIGHT, moved(join, new))
    if beside:
        most = np.max([moved(a, b) for a, b in beside], axis=0)
        still = np.maximum(still, _up_to(AT_REST, most))
    carried = _difference(video[join], video[new])
    carried *= still[:, :, None]
    carried += _difference(frame, video[join])
    return carried


def _difference(a: Frame, b: Frame) -> Float[np.ndarray, "h w 3"]:
    difference = a.astype(np.float32)
    difference -= b
    return difference


def _up_to(limit: float, x: Array) -> Array:
    """Returns 1 up to the limit, and 0 from twice the limit on."""
    return np.clip(2.0 - x / limit, 0.0, 1.0)


def with_surroundings(
    video: Video, inputs: Video, hole: Bool[np.ndarray, "h w"]
) -> LazyVideo:
    """Returns the video with the input frames around a hole.

    The difference along the rim is carried into the hole, ring by ring as the mean of
    its neighbours, and fades over `RIM` pixels.
    """
    made, outside = lazy(video), lazy(inputs)
    rings = _rings(hole)

    def read(start: int, stop: int) -> Iterator[Frame]:
        frames = made.read(start, stop), outside.read(start, stop)
        for frame, around in zip(*frames, strict=True):
            yield _surrounded(frame, around, hole, rings)

    return LazyVideo(made.shape, read)


def _surrounded(
    frame: Frame,
    around: Frame,
    hole: Bool[np.ndarray, "h w"],
    rings: list[tuple[np.ndarray, np.ndarray]],
) -> Frame:
    """Returns a frame with the input frame around the hole; see `with_surroundings`."""
    out = np.where(hole[:, :, None], frame, around)
    difference = (around.astype(np.float32) - frame) * ~hole[:, :, None]
    for ring, (new, count) in enumerate(rings, start=1):
        carried = _neighbours(difference)[new] / count
        difference[new] = carried
        out[new] = _to_uint8(frame[new] + (1 - ring / (RIM + 1)) * carried)
    return out


def _rings(hole: Bool[np.ndarray, "h w"]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the rings of a hole's rim, from outside.

    A ring is a mask, bool (h, w), and for each of its pixels, (n, 1), the number of
    neighbours outside of it.
    """
    rings, reached = [], ~hole
    for _ in range(RIM):
        count = _neighbours(reached[:, :, None].astype(np.float32))
        new = hole & ~reached & (count[:, :, 0] > 0)
        rings.append((new, count[new]))
        reached = reached | new
    return rings


def _neighbours(x: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    """Returns sums over 3 x 3 pixels."""
    for axis in (0, 1):
        pad = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), 3, axis)
        x = windows.sum(axis=-1)
    return x


def _to_uint8(x: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
    """Returns pixels, rounded; `x` is overwritten."""
    return np.round(x, out=x).clip(0, 255, out=x).astype(np.uint8)


def frame_errors(frames: Iterable[Frame]) -> Float[np.ndarray, " _"]:
    """Returns the mean |difference|, of 255, of each frame from the previous one."""
    pairs = itertools.pairwise(frames)
    return np.array([_error(a, b) for a, b in pairs], np.float32)


def _error(a: Frame, b: Frame) -> float:
    return float(np.abs(_difference(b, a)).mean())


def join_ratio(video: Video, joins: Sequence[int], *, closed: bool = False) -> float:
    """Returns the largest step at a join over the median step of the other frames.

    The frames are read once.

    Args:
        joins: the first frame after each join.
        closed: the clip is a loop, whose first frame follows its last; a join may then
            be 0.

    Raises:
        UserError: no frame precedes a join.
    """
    first = 0 if closed else 1
    places = np.array(sorted(set(joins)), int) - first
    if not len(places) or places[0] < 0 or places[-1] >= len(video) - first:
        raise UserError(
            f"joins {sorted(set(joins))} in a clip of {len(video)} frames: expected "
            f"{first} to {len(video) - 1}"
        )
    ends: list[Frame] = []

    def watched() -> Iterator[Frame]:
        for frame in video:
            ends[:] = [*ends[:1], frame]
            yield frame

    errors = frame_errors(watched())
    if closed:
        errors = np.concatenate([[_error(ends[-1], ends[0])], errors])
    # In a still clip, a step of half a grey value is invisible.
    others = np.delete(errors, places)
    median = np.median(others) if len(others) else 0.0
    return float(errors[places].max() / max(median, 0.5))

"""Blending of input frames: brought to size, and faded into the generated frames."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.ndimage import uniform_filter

from soraxla.core.errors import UserError
from soraxla.core.types import Array

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


def cross_fade(
    before: UInt8[np.ndarray, "t h w 3"], after: UInt8[np.ndarray, "t h w 3"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Fades the first clip into the second, slowly at both ends (6w⁵ − 15w⁴ + 10w³)."""
    w = np.arange(1, len(before) + 1) / (len(before) + 1)
    w = w**3 * (6 * w**2 - 15 * w + 10)
    pairs = zip(w, before, after, strict=True)
    return np.stack([_to_uint8((1 - x) * one + x * other) for x, one, other in pairs])


def with_frames(
    video: UInt8[np.ndarray, "t h w 3"],
    inputs: Mapping[int, UInt8[np.ndarray, "h w 3"]],
) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns the video with the input frames in place of the VAE's versions of them.

    The difference between the two is carried over to the next `FADE` frames on both
    sides, fading; between two input frames both are mixed. Where nothing moves, so is
    the step to the first new frame: still regions do not jump.
    """
    out = video.copy()
    carried = functools.cache(functools.partial(_carried_difference, video, inputs))
    for f, frame in enumerate(video):
        if f in inputs:
            out[f] = inputs[f]
            continue
        sides = (max, (g for g in inputs if g < f)), (min, (g for g in inputs if g > f))
        nearest = [g for pick, frames in sides if (g := pick(frames, default=-1)) >= 0]
        weights = {g: 1 - abs(f - g) / (FADE + 1) for g in nearest}
        weights = {g: weight for g, weight in weights.items() if weight > 0}
        if weights:
            total = max(1.0, sum(weights.values()))
            parts = [
                w / total * carried(g, 1 if g < f else -1) for g, w in weights.items()
            ]
            out[f] = _to_uint8(frame + np.sum(parts, axis=0))
    return out


def _carried_difference(
    video: UInt8[np.ndarray, "t h w 3"],
    inputs: Mapping[int, UInt8[np.ndarray, "h w 3"]],
    join: int,
    side: int,
) -> Float[np.ndarray, "h w 3"]:
    """Returns the difference that new frames beside the frame `join` inherit.

    `side` is 1 for frames after it, -1 before. A small step, or one between frames at
    rest, is an error of the VAE or the model, not motion.
    """

    def step(a: int, b: int) -> Float[np.ndarray, "h w 3"]:
        return video[a].astype(np.float32) - video[b]

    def moved(a: int, b: int) -> Float[np.ndarray, "h w"]:
        return uniform_filter(np.abs(step(a, b)).mean(-1), 5, mode="nearest")

    new = join + side
    still = _up_to(SLIGHT, moved(join, new))
    beside = [(join - side, join)] if join - side in inputs else []
    after = new + side
    if 0 <= after < len(video) and after not in inputs:
        beside.append((new, after))
    if beside:
        most = np.max([moved(a, b) for a, b in beside], axis=0)
        still = np.maximum(still, _up_to(AT_REST, most))
    difference = inputs[join].astype(np.float32) - video[join]
    return difference + still[:, :, None] * step(join, new)


def _up_to(limit: float, x: Array) -> Array:
    """Returns 1 up to the limit, and 0 from twice the limit on."""
    return np.clip(2.0 - x / limit, 0.0, 1.0)


def with_surroundings(
    video: UInt8[np.ndarray, "t h w 3"],
    inputs: UInt8[np.ndarray, "t h w 3"],
    hole: Bool[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns the video with the input frames around a hole.

    The difference along the rim is carried into the hole, ring by ring as the mean of
    its neighbours, and fades over `RIM` pixels.
    """
    out = np.where(hole[None, :, :, None], video, inputs)
    difference = (inputs.astype(np.float32) - video) * ~hole[None, :, :, None]
    reached = ~hole
    for ring in range(1, RIM + 1):
        count = _neighbours(reached[None, :, :, None].astype(np.float32))
        new = hole & ~reached & (count[0, :, :, 0] > 0)
        carried = _neighbours(difference)[:, new] / count[:, new]
        difference[:, new] = carried
        faded = video[:, new] + (1 - ring / (RIM + 1)) * carried
        out[:, new] = _to_uint8(faded)
        reached = reached | new
    return out


def _neighbours(x: Float[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t h w c"]:
    """Returns sums over 3 x 3 pixels."""
    for axis in (1, 2):
        pad = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), 3, axis)
        x = windows.sum(axis=-1)
    return x


def _to_uint8(x: Float[Array, "*n"]) -> UInt8[np.ndarray, "*n"]:
    return np.round(x).clip(0, 255).astype(np.uint8)


def frame_errors(video: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, " t-1"]:
    """Returns the mean |difference|, of 255, of each frame from the previous one."""
    frames = video.astype(np.float32)
    return np.abs(frames[1:] - frames[:-1]).mean((1, 2, 3))


def join_ratio(
    video: UInt8[np.ndarray, "t h w 3"], joins: Sequence[int], *, closed: bool = False
) -> float:
    """Returns the largest step at a join over the median step of the other frames.

    Args:
        joins: the first frame after each join.
        closed: the clip is a loop, whose first frame follows its last; a join may then
            be 0.

    Raises:
        UserError: no frame precedes a join.
    """
    ring = np.concatenate([video[-1:], video]) if closed else video
    errors, first = frame_errors(ring), 0 if closed else 1
    places = np.array(sorted(set(joins)), int) - first
    if not len(places) or places[0] < 0 or places[-1] >= len(errors):
        raise UserError(
            f"joins {sorted(set(joins))} in a clip of {len(video)} frames: expected "
            f"{first} to {len(video) - 1}"
        )
    # In a still clip, a step of half a grey value is invisible.
    others = np.delete(errors, places)
    median = np.median(others) if len(others) else 0.0
    return float(errors[places].max() / max(median, 0.5))


def best_take(takes: Mapping[int, np.ndarray], places: list[int]) -> np.ndarray:
    """Returns the take with the least visible joins; of equals, the first."""
    if len(takes) == 1:
        return takes[0]
    closed = 0 in places  # only in a loop does the first frame follow a join
    return takes[
        min(sorted(takes), key=lambda i: join_ratio(takes[i], places, closed=closed))
    ]

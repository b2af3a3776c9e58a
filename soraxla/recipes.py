"""How each task is done: which clips are sampled, one after the other, and what becomes
of them.

A recipe is a generator. It yields a clip to sample, is sent the latents, and in the end
returns the video; whoever drives it may sample the clips of many recipes together.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import NamedTuple, assert_never

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import maximum_filter

from soraxla.autoencode import decode_clip, encode_clip
from soraxla.mixture import greyed
from soraxla.patching import Patch
from soraxla.request import (
    BRIDGE,
    Animate,
    Connect,
    Edit,
    Extend,
    Inpaint,
    Loop,
    Outpaint,
    Request,
)
from soraxla.sampling.seams import (
    cross_fade,
    whole_patches,
    with_frames,
    with_surroundings,
)
from soraxla.sampling.tasks import (
    Alone,
    Clip,
    Steering,
    starting_with,
    window_ends,
    window_of,
)
from soraxla.weights import Loaded

Video = UInt8[np.ndarray, "_ _ _ 3"]
Latents = Float[np.ndarray, "_ _ _ z"]
Recipe = Generator[Clip, np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Studio:
    """A request, and the VAE between its pixels and the latents of patches."""

    request: Request
    vae: Loaded
    patch: Patch
    limit: int | None  # latent frames the model was trained with at most

    @property
    def cell(self) -> tuple[int, int]:
        """Pixels of a patch, (height, width)."""
        spatial, (_, rows, columns) = self.vae.model.spatial, self.patch
        return rows * spatial, columns * spatial

    @property
    def window(self) -> int | None:
        """Most latent frames to sample at once."""
        asked = self.request.window
        return self.limit if asked is None else 1 + (asked - 1) // self._temporal

    @property
    def overlap(self) -> int:
        """Latent frames that a window shares with the one before."""
        return 1 + (self.request.overlap - 1) // self._temporal

    @property
    def overlap_frames(self) -> int:
        """Frames of as many latents at the beginning of a clip."""
        return self.frames(self.overlap)

    def frames(self, latents: int) -> int:
        """Frames of a clip of so many latent frames."""
        return 1 + (latents - 1) * self._temporal

    def latents(self, frames: int) -> int:
        """Latent frames of a clip, the next multiple up."""
        return 1 + -(-(frames - 1) // self._temporal)

    def place(self, frame: int) -> float:
        """Where a frame that begins what is encoded alone stands, in latents."""
        return frame / self._temporal

    def encode(self, video: Video) -> Latents:
        """Filled up to whole patches and latents by repeating edges."""
        cfg, (rows, columns) = self.vae.model, self.cell
        below, right = -video.shape[1] % rows, -video.shape[2] % columns
        if not len(video):
            sides = video.shape[1] + below, video.shape[2] + right
            grid = (side // cfg.spatial for side in sides)
            return np.zeros((0, *grid, cfg.latent_channels), np.float32)
        missing = self.frames(self.latents(len(video))) - len(video)
        padding = ((0, missing), (0, below), (0, right), (0, 0))
        return encode_clip(self.vae.params, cfg, np.pad(video, padding, mode="edge"))

    def decode(self, latents: Latents, frames: int) -> Video:
        """The first frames, at the request's size."""
        video = decode_clip(self.vae.params, self.vae.model, latents)
        return video[:frames, : self.request.height, : self.request.width]

    def steering(self, first: int, frames: int) -> Steering | None:
        """What the request says of so many frames of the video, filled up to whole
        latents: with no action, where the camera is."""
        missing = self.frames(self.latents(frames)) - frames
        given = {}
        for name in ("actions", "camera"):
            rows = getattr(self.request, name)
            if rows is not None:
                rows = rows[first : first + frames]
                last = rows[-1:] if name == "camera" else np.zeros_like(rows[-1:])
                given[name] = np.concatenate([rows, last.repeat(missing, axis=0)])
        return Steering(**given) if given else None

    def ends(self, stretch: "Stretch") -> list[int]:
        """Where the windows end that a stretch is made in, in latents.

        Raises:
            ValueError: windows that are no longer than their overlap, or of which the
                last, which alone is told what comes after, has nothing to make.
        """
        before, new, after = stretch
        ends = window_ends(
            self.latents(before + new + after), self.window, self.overlap
        )
        if (
            len(ends) > 1
            and before
            and after
            and ends[-2] >= self.latents(before + new)
        ):
            assert self.window is not None
            raise ValueError(
                f"windows of {self.frames(self.window)} frames that overlap by "
                f"{self.overlap_frames} make all new frames before they come to the "
                f"{after} after them: give a longer window or a shorter overlap"
            )
        return ends

    @property
    def _temporal(self) -> int:
        return self.vae.model.temporal


def recipe(studio: Studio) -> Recipe:
    """The recipe of a request's task."""
    request = studio.request
    task, fitted, frames = request.task, request.fitted, request.frames
    nothing = np.zeros((0, request.height, request.width, 3), np.uint8)
    match task:
        case Animate(first=first, last=last):
            first, last = (nothing if x is None else fitted(x) for x in (first, last))
            between = frames - len(first) - len(last)
            made = yield from _between(first, last, between, studio, steered_from=0)
            return np.concatenate([first, made, last])
        case Extend(video=video):
            before, new = _before(task, frames), frames - len(video)
            video = fitted(video)
            parts = [video]
            if before:
                parts.insert(0, (yield from _between(nothing, video, before, studio)))
            if new > before:
                after = yield from _between(
                    video, nothing, new - before, studio, steered_from=before
                )
                parts.append(after)
            return np.concatenate(parts)
        case Connect(before=before, after=after, strength=strength):
            before, after = fitted(before), fitted(after)
            new = frames - len(before) - len(after)
            made = yield from _between(before, after, new, studio, strength=strength)
            return np.concatenate([before, made, after])
        case Loop(video=video, strength=strength):
            if video is None:
                video = yield from _between(nothing, nothing, _around(studio), studio)
            video = fitted(video)
            new = frames - len(video)
            made = yield from _between(video, video, new, studio, strength=strength)
            return np.concatenate([video, made])
        case Edit(video=video, strength=strength):
            return (yield from _edited(fitted(video), strength, studio))
        case Inpaint(video=video, mask=mask):
            hole = _fitted_mask(mask, request)
            return (yield from _inpainted(fitted(video), hole, studio))
        case Outpaint(video=video):
            return (yield from _inpainted(*_on_canvas(video, studio), studio))
        case _:
            assert_never(task)


def joins(studio: Studio) -> list[int]:
    """The first frame after each join of what is given, or of a loop's first clip, with
    what is made; a loop's last frame comes before its first.

    Of tasks that have none it is empty.
    """
    task, frames = studio.request.task, studio.request.frames
    match task:
        case Animate(first=first, last=last):
            places = [1] * (first is not None) + [frames - 1] * (last is not None)
        case Extend(video=video):
            before = _before(task, frames)
            places = [before, (before + len(video)) % frames]
        case Connect(before=before, after=after):
            places = [len(before), frames - len(after)]
        case Loop(video=video):
            return [0, _around(studio) if video is None else len(video)]
        case _:
            places = []
    return sorted(set(places) - {0})


class Stretch(NamedTuple):
    """Frames in a row that are made: how many the model is told of on either side."""

    before: int
    new: int
    after: int


def stretches(studio: Studio) -> list[Stretch]:
    """What is made of a video, one after the other."""
    task, frames = studio.request.task, studio.request.frames

    def told(length: int) -> int:
        return min(length, studio.overlap_frames)

    match task:
        case Animate(first=first, last=last):
            ends = int(first is not None), int(last is not None)
            return [Stretch(ends[0], frames - sum(ends), ends[1])]
        case Extend(video=video):
            own, before, new = len(video), _before(task, frames), frames - len(video)
            parts = [Stretch(0, before, told(own)), Stretch(told(own), new - before, 0)]
            return [part for part in parts if part.new]
        case Connect(before=before, after=after):
            new = frames - len(before) - len(after)
            return [Stretch(told(len(before)), new, told(len(after)))]
        case Loop(video=None):
            around = _around(studio)
            end = told(around)
            return [Stretch(0, around, 0), Stretch(end, frames - around, end)]
        case Loop(video=np.ndarray() as video):
            end = told(len(video))
            return [Stretch(end, frames - len(video), end)]
    return [Stretch(0, frames, 0)]


def _before(task: Extend, frames: int) -> int:
    """How many of the frames come before the clip."""
    new = frames - len(task.video)
    return {"forward": 0, "backward": new, "both": new // 2}[task.direction]


def _around(studio: Studio) -> int:
    """Frames of the clip that a loop from a prompt alone begins with."""
    frames = studio.request.frames
    return frames - min(BRIDGE, frames - studio.overlap_frames)


def _between(
    before: Video,
    after: Video,
    frames: int,
    studio: Studio,
    *,
    steered_from: int | None = None,
    strength: float = 1.0,
) -> Recipe:
    """So many frames that lead from one clip to another; either may have no frame.

    Both are encoded alone. What comes before is the known beginning of the clip that is
    sampled, what comes after stands behind it at its own time. The request's actions
    and camera steer it where `before` begins with frame `steered_from` of the video.
    Below a `strength` of 1 sampling starts from a cross-fade of the two.
    """
    steering = None
    if steered_from is not None:
        shared = min(len(before), studio.overlap_frames)
        first = steered_from + len(before) - shared
        steering = studio.steering(first, shared + frames + len(after))
    before, after = before[-studio.overlap_frames :], after[: studio.overlap_frames]
    total = len(before) + frames + len(after)
    ends = studio.ends(Stretch(len(before), frames, len(after)))
    if len(ends) > 1 and len(after) and not len(before):
        return (yield from _backward(after, frames, studio, steered_from))
    alone = ()
    if len(after):
        first = studio.place(total - len(after))
        alone = (Alone(latents=studio.encode(after), place=first),)
    prefix = studio.encode(before)
    clip = starting_with(prefix, ends[-1], studio.request.fps, alone, steering)
    if strength < 1:
        fade = cross_fade(before[-1], after[0], frames)
        latents = studio.encode(np.concatenate([before, fade, after]))
        latents[: len(prefix)] = prefix
        clip = replace(clip, latents=latents, strength=strength)
    video = studio.decode((yield from _by_windows(clip, studio)), total)
    given = dict(enumerate(before)) | dict(enumerate(after, total - len(after)))
    return with_frames(video, given)[len(before) : total - len(after)]


def _backward(
    after: Video, frames: int, studio: Studio, steered_from: int | None
) -> Recipe:
    """What comes before a clip, the last window first; each is the end of the next."""
    made, window = after[:0], studio.window
    assert window is not None
    while len(made) < frames:
        later = np.concatenate([made, after])[: studio.overlap_frames]
        new = min(frames - len(made), studio.frames(window) - len(later))
        first = steered_from
        if first is not None:
            first += frames - len(made) - new
        part = yield from _between(after[:0], later, new, studio, steered_from=first)
        made = np.concatenate([part, made])
    return made


def _edited(video: Video, strength: float, studio: Studio) -> Recipe:
    latents = studio.encode(video)
    clip = Clip(
        latents=latents,
        known=np.zeros(latents.shape[:3], bool),
        fps=studio.request.fps,
        strength=strength,
    )
    return studio.decode((yield from _by_windows(clip, studio)), len(video))


def _inpainted(video: Video, hole: Bool[np.ndarray, "_ _"], studio: Studio) -> Recipe:
    """The video with the hole, in whole patches, made anew.

    The encoder looks at whole frames, so that it is shown none of the hole.
    """
    height, width = hole.shape
    cells = studio.cell
    below, right = (-side % cell for side, cell in zip(hole.shape, cells, strict=True))
    whole = whole_patches(np.pad(hole, ((0, below), (0, right))), cells)
    hole = whole[:height, :width]
    latents = studio.encode(greyed(video, hole))
    step = studio.vae.model.spatial
    known = np.broadcast_to(~whole[::step, ::step], latents.shape[:3])
    clip = Clip(latents=latents, known=known, fps=studio.request.fps)
    made = studio.decode((yield from _by_windows(clip, studio)), len(video))
    return with_surroundings(made, video, hole)


def _fitted_mask(mask: Bool[np.ndarray, "_ _"], request: Request) -> np.ndarray:
    """At the request's size, as the video is brought to it; thin lines stay lines."""
    rows, columns = mask.shape
    scale = min(rows / request.height, columns / request.width)
    mask = maximum_filter(mask, 1 + math.ceil(scale) if scale > 1 else 1)
    white = np.repeat(mask[None, :, :, None] * np.uint8(255), 3, axis=-1)
    return request.fitted(white)[0, :, :, 0] >= 128


def _on_canvas(video: Video, studio: Studio) -> tuple[Video, np.ndarray]:
    """The clip about the middle of the request's size, its corner on that of a patch,
    and the hole around it."""
    size = studio.request.height, studio.request.width
    sides = zip(size, video.shape[1:3], studio.cell, strict=True)
    top, left = ((side - own) // 2 // cell * cell for side, own, cell in sides)
    inner = slice(top, top + video.shape[1]), slice(left, left + video.shape[2])
    hole = np.ones(size, bool)
    hole[inner] = False
    canvas = np.zeros((len(video), *size, 3), np.uint8)
    canvas[:, *inner] = video
    return canvas, hole


def _by_windows(clip: Clip, studio: Studio) -> Recipe:
    """All latents of a clip. Each window's last ones are known to the next."""
    latents, start = clip.latents[:0], 0
    for end in window_ends(clip.grid.t, studio.window, studio.overlap):
        before = latents[start:]
        made = yield window_of(clip, start, end, before)
        latents = np.concatenate([latents[:start], made])
        start = end - studio.overlap
    return latents

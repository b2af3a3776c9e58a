"""How each task is done: which clips are sampled, one after the other, and what becomes
of them.

A recipe is a generator. It yields a clip to sample, is sent the latents, and in the end
returns the video; whoever drives it may sample the clips of many recipes together.
"""

import itertools
import math
from collections.abc import Generator
from dataclasses import replace
from typing import NamedTuple, assert_never

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import maximum_filter

from soraxla.generation.blending import (
    cross_fade,
    whole_patches,
    with_frames,
    with_surroundings,
)
from soraxla.generation.condition_latents import (
    Alone,
    Clip,
    starting_with,
    window_ends,
    window_of,
)
from soraxla.generation.context import Stretch, TaskContext, Video
from soraxla.generation.request import (
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
from soraxla.packing.conditioning import greyed

Recipe = Generator[Clip, np.ndarray, np.ndarray]


def recipe(studio: TaskContext) -> Recipe:
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
            made = yield from _bridge(before, after, new, strength, studio)
            return np.concatenate([before, made, after])
        case Loop(video=video, strength=strength):
            if video is None:
                video = yield from _between(nothing, nothing, _around(studio), studio)
            video = fitted(video)
            new = frames - len(video)
            made = yield from _bridge(video, video, new, strength, studio)
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


def joins(studio: TaskContext) -> list[int]:
    """The first frame after each join of what is given, or of a loop's first clip, with
    what is made; a loop's last frame comes before its first.

    Of tasks that have none it is empty.
    """
    closed = [0] if isinstance(studio.request.task, Loop) else []
    return closed + list(itertools.accumulate(run.frames for run in _runs(studio)))[:-1]


def stretches(studio: TaskContext) -> list[Stretch]:
    """What is made of a video, one after the other."""
    task, runs = studio.request.task, _runs(studio)
    told = [0 if run.made else min(run.frames, studio.overlap_frames) for run in runs]
    told = [0, *told, told[0] if isinstance(task, Loop) else 0]
    ways = [
        Stretch(told[i], run.frames, told[i + 2])
        for i, run in enumerate(runs)
        if run.made
    ]
    if isinstance(task, Connect | Loop) and task.strength < 1:
        [way] = ways
        apart = [way._replace(after=0), way._replace(before=0)]
        ways = [*apart, way] if task.strength else apart
    if isinstance(task, Loop) and task.video is None:
        ways.insert(0, Stretch(0, runs[0].frames, 0))
    return ways


class _Run(NamedTuple):
    """Frames in a row of a video."""

    frames: int
    made: bool  # from what stands beside them


def _runs(studio: TaskContext) -> list[_Run]:
    """A video's, given and made in turn; a loop's first clip is as if given."""
    task, frames = studio.request.task, studio.request.frames
    match task:
        case Animate(first=first, last=last):
            ends = int(first is not None), int(last is not None)
            runs = [(ends[0], False), (frames - sum(ends), True), (ends[1], False)]
        case Extend(video=video):
            before, new = _before(task, frames), frames - len(video)
            runs = [(before, True), (len(video), False), (new - before, True)]
        case Connect(before=before, after=after):
            own = len(before), len(after)
            runs = [(own[0], False), (frames - sum(own), True), (own[1], False)]
        case Loop(video=video):
            own = _around(studio) if video is None else len(video)
            runs = [(own, False), (frames - own, True)]
        case _:
            runs = [(frames, True)]
    return [_Run(*run) for run in runs if run[0]]


def _before(task: Extend, frames: int) -> int:
    """How many of the frames come before the clip."""
    new = frames - len(task.video)
    return {"forward": 0, "backward": new, "both": new // 2}[task.direction]


def _around(studio: TaskContext) -> int:
    """Frames of the clip that a loop from a prompt alone begins with."""
    frames = studio.request.frames
    return frames - min(BRIDGE, frames - studio.overlap_frames)


def _bridge(
    before: Video, after: Video, frames: int, strength: float, studio: TaskContext
) -> Recipe:
    """So many frames that lead from one clip into another.

    Below a `strength` of 1 what follows the one and what leads to the other are made
    each by itself, and sampling starts from a cross-fade of the two; at 0 that is all.
    """
    fade = None
    if strength < 1:
        onward = yield from _between(before, after[:0], frames, studio)
        towards = yield from _between(before[:0], after, frames, studio)
        fade = cross_fade(onward, towards)
        if strength == 0:
            return fade
    way = before, after, frames, studio
    return (yield from _between(*way, start=fade, strength=strength))


def _between(
    before: Video,
    after: Video,
    frames: int,
    studio: TaskContext,
    *,
    steered_from: int | None = None,
    start: Video | None = None,
    strength: float = 1.0,
) -> Recipe:
    """So many frames that lead from one clip to another; either may have no frame.

    Both are encoded alone. What comes before is the known beginning of the clip that is
    sampled, what comes after stands behind it at its own time. The request's actions
    and camera steer it where `before` begins with frame `steered_from` of the video.
    From `start`, such frames, sampling starts at the `strength`.
    """
    first_new = None if steered_from is None else steered_from + len(before)
    before, after = before[-studio.overlap_frames :], after[: studio.overlap_frames]
    ends = studio.ends(Stretch(len(before), frames, len(after)))
    if len(ends) > 1 and len(after) and not len(before):
        return (yield from _backward(after, frames, studio, steered_from))
    total = len(before) + frames + len(after)
    skipped = 0
    if len(after) and not len(before):
        # More is made in front, so that what comes after stands where it did in
        # training, on a whole latent.
        skipped = studio.frames(studio.latents(total)) - total
        total += skipped
    steering = None
    if first_new is not None:
        steering = studio.steering(first_new - len(before) - skipped, total)
    alone = ()
    if len(after):
        first = studio.place(total - len(after))
        alone = (Alone(latents=studio.encode(after), place=first),)
    prefix = studio.encode(before)
    clip = starting_with(prefix, ends[-1], studio.request.fps, alone, steering)
    if start is not None:
        latents = studio.encode(np.concatenate([before, start, after]))
        latents[: len(prefix)] = prefix
        clip = replace(clip, latents=latents, strength=strength)
    video = studio.decode((yield from _by_windows(clip, studio)), total)
    given = dict(enumerate(before)) | dict(enumerate(after, total - len(after)))
    return with_frames(video, given)[len(before) + skipped : total - len(after)]


def _backward(
    after: Video, frames: int, studio: TaskContext, steered_from: int | None
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


def _edited(video: Video, strength: float, studio: TaskContext) -> Recipe:
    latents = studio.encode(video)
    clip = Clip(
        latents=latents,
        condition_mask=np.zeros(latents.shape[:3], bool),
        fps=studio.request.fps,
        strength=strength,
    )
    return studio.decode((yield from _by_windows(clip, studio)), len(video))


def _inpainted(
    video: Video, hole: Bool[np.ndarray, "_ _"], studio: TaskContext
) -> Recipe:
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
    condition_mask = np.broadcast_to(~whole[::step, ::step], latents.shape[:3])
    clip = Clip(latents=latents, condition_mask=condition_mask, fps=studio.request.fps)
    made = studio.decode((yield from _by_windows(clip, studio)), len(video))
    return with_surroundings(made, video, hole)


def _fitted_mask(mask: Bool[np.ndarray, "_ _"], request: Request) -> np.ndarray:
    """At the request's size, as the video is brought to it; thin lines stay lines."""
    rows, columns = mask.shape
    scale = min(rows / request.height, columns / request.width)
    mask = maximum_filter(mask, 1 + math.ceil(scale) if scale > 1 else 1)
    white = np.repeat(mask[None, :, :, None] * np.uint8(255), 3, axis=-1)
    return request.fitted(white)[0, :, :, 0] >= 128


def _on_canvas(video: Video, studio: TaskContext) -> tuple[Video, np.ndarray]:
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


def _by_windows(clip: Clip, studio: TaskContext) -> Recipe:
    """All latents of a clip. Each window's last ones are known to the next."""
    latents, start = clip.latents[:0], 0
    for end in window_ends(clip.grid.t, studio.window, studio.overlap):
        before = latents[start:]
        made = yield window_of(clip, start, end, before)
        latents = np.concatenate([latents[:start], made])
        start = end - studio.overlap
    return latents

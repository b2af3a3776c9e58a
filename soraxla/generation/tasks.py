"""The sampling of each task: which clips are sampled, one after the other.

A task is sampled by a generator. It yields a clip, receives the clip's latents, and at
the end returns the video; its driver may sample the clips of many tasks together.

A video is decoded and blended when it is read. A task whose next clip depends on frames
of the last one reads only these.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import maximum_filter

from soraxla.generation.blending import (
    cross_fade,
    fit,
    whole_patches,
    with_surroundings,
)
from soraxla.generation.condition_latents import Clip
from soraxla.generation.context import Span, TaskContext
from soraxla.generation.request import Request
from soraxla.generation.task_inputs import (
    Animate,
    Connect,
    Edit,
    Extend,
    Inpaint,
    Loop,
    Outpaint,
    Run,
    Task,
)
from soraxla.generation.windows import Sampling, between, by_windows, ends_of
from soraxla.media.lazy_video import LazyVideo, Video, joined, lazy
from soraxla.packing.conditioning import greyed


def sampling(context: TaskContext) -> Sampling:
    """Returns the generator that samples a request's task."""
    task = context.request.task
    return SAMPLING[type(task)](task, context)


def joins(context: TaskContext) -> list[int]:
    """Returns the first frame after each join of input frames, or of a loop's first
    clip, with generated ones.

    A loop's last frame comes before its first. The list is empty for a task without
    joins.
    """
    closed = [0] if context.request.task.closed else []
    return closed + list(itertools.accumulate(r.frames for r in _runs(context)))[:-1]


def spans(context: TaskContext) -> list[Span]:
    """Returns the spans of frames that a task generates, one after the other."""
    task, runs = context.request.task, _runs(context)
    shown = [
        0 if run.generated else min(run.frames, context.overlap_frames) for run in runs
    ]
    shown = [0, *shown, shown[0] if task.closed else 0]
    found = [
        Span(shown[i], run.frames, shown[i + 2])
        for i, run in enumerate(runs)
        if run.generated
    ]
    strength = task.bridge_strength
    if strength is not None and strength < 1:
        [whole] = found
        apart = [whole._replace(after=0), whole._replace(before=0)]
        found = [*apart, whole] if strength else apart
    if task.closed and not task.videos():
        found.insert(0, Span(0, runs[0].frames, 0))
    return found


def clip_count(context: TaskContext) -> int:
    """Returns the number of clips that a task samples, one after the other."""
    return sum(len(context.window_ends(span)) for span in spans(context))


def _runs(context: TaskContext) -> list[Run]:
    request = context.request
    return request.task.runs(request.frames, context.overlap_frames)


def _animate(task: Animate, context: TaskContext) -> Sampling:
    no_frames, fitted = _no_frames(context), context.request.fitted
    first = no_frames if task.first is None else fitted(task.first)
    last = no_frames if task.last is None else fitted(task.last)
    new = context.request.frames - len(first) - len(last)
    generated = yield from between(first, last, new, context, steered_from=0)
    return joined(first, generated, last)


def _extend(task: Extend, context: TaskContext) -> Sampling:
    no_frames, frames = _no_frames(context), context.request.frames
    before, new = task.before(frames), frames - len(task.video)
    video = context.request.fitted(task.video)
    parts = [video]
    if before:
        parts.insert(0, (yield from between(no_frames, video, before, context)))
    if new > before:
        after = yield from between(
            video, no_frames, new - before, context, steered_from=before
        )
        parts.append(after)
    return joined(*parts)


def _connect(task: Connect, context: TaskContext) -> Sampling:
    before, after = map(context.request.fitted, (task.before, task.after))
    new = context.request.frames - len(before) - len(after)
    generated = yield from _bridge(before, after, new, task.strength, context)
    return joined(before, generated, after)


def _loop(task: Loop, context: TaskContext) -> Sampling:
    no_frames, frames, video = _no_frames(context), context.request.frames, task.video
    if video is None:
        clip_frames = task.clip_frames(frames, context.overlap_frames)
        video = yield from between(no_frames, no_frames, clip_frames, context)
    video = context.request.fitted(video)
    new = frames - len(video)
    generated = yield from _bridge(video, video, new, task.strength, context)
    return joined(video, generated)


def _edit(task: Edit, context: TaskContext) -> Sampling:
    video = context.request.fitted(task.video)
    latents = context.encode(video)
    clip = Clip(
        latents=latents,
        condition_mask=np.zeros(latents.shape[:3], bool),
        fps=context.fps,
        strength=task.strength,
    )
    return context.decode((yield from by_windows(clip, context)), len(video))


def _inpaint(task: Inpaint, context: TaskContext) -> Sampling:
    hole = _fitted_mask(task.mask, context.request)
    return (yield from _fill(context.request.fitted(task.video), hole, context))


def _outpaint(task: Outpaint, context: TaskContext) -> Sampling:
    return (yield from _fill(*_on_canvas(task.video, context), context))


SAMPLING: dict[type[Task], Callable[[Any, TaskContext], Sampling]] = {
    Animate: _animate,
    Extend: _extend,
    Connect: _connect,
    Loop: _loop,
    Edit: _edit,
    Inpaint: _inpaint,
    Outpaint: _outpaint,
}


def _no_frames(context: TaskContext) -> Video:
    request = context.request
    return np.zeros((0, request.height, request.width, 3), np.uint8)


def _bridge(
    before: Video, after: Video, frames: int, strength: float, context: TaskContext
) -> Sampling:
    """Samples frames that lead from one clip into another.

    Below a `strength` of 1, one clip is extended forward and the other backward, and
    sampling starts from a cross-fade of the two; at 0 the cross-fade is the bridge.
    """
    before, after = ends_of(before, after, context)
    fade = None
    if strength < 1:
        onward = yield from between(before, after[:0], frames, context)
        towards = yield from between(before[:0], after, frames, context)
        fade = cross_fade(onward, towards)
        if strength == 0:
            return fade
    bridge = yield from between(
        before, after, frames, context, start=fade, strength=strength
    )
    return bridge


def _fill(
    video: LazyVideo, hole: Bool[np.ndarray, "_ _"], context: TaskContext
) -> Sampling:
    """Samples the hole of a video, in whole patches, again.

    The hole is grey for the encoder, which looks at whole frames.
    """
    height, width = hole.shape
    cells = context.cell
    below, right = (-side % cell for side, cell in zip(hole.shape, cells, strict=True))
    whole = whole_patches(np.pad(hole, ((0, below), (0, right))), cells)
    hole = whole[:height, :width]
    grey = video.each(lambda frame: greyed(frame[None], hole)[0], height, width)
    latents = context.encode(grey)
    step = context.vae.model.spatial
    condition_mask = np.broadcast_to(~whole[::step, ::step], latents.shape[:3])
    clip = Clip(latents=latents, condition_mask=condition_mask, fps=context.fps)
    made = context.decode((yield from by_windows(clip, context)), len(video))
    return with_surroundings(made, video, hole)


def _fitted_mask(mask: Bool[np.ndarray, "_ _"], request: Request) -> np.ndarray:
    """Returns the mask at the request's size, fitted as the video is.

    Thin lines stay lines.
    """
    rows, columns = mask.shape
    scale = min(rows / request.height, columns / request.width)
    mask = maximum_filter(mask, 1 + math.ceil(scale) if scale > 1 else 1)
    white = np.repeat(mask[None, :, :, None] * np.uint8(255), 3, axis=-1)
    white = fit(white, request.width, request.height, request.fit)
    return white[0, :, :, 0] >= 128


def _on_canvas(video: Video, context: TaskContext) -> tuple[LazyVideo, np.ndarray]:
    """Returns the clip on a canvas of the request's size, and the hole around it.

    The clip is about in the middle, with its corner on a patch's corner.
    """
    size = context.request.height, context.request.width
    sides = zip(size, video.shape[1:3], context.cell, strict=True)
    top, left = ((side - own) // 2 // cell * cell for side, own, cell in sides)
    inner = slice(top, top + video.shape[1]), slice(left, left + video.shape[2])
    hole = np.ones(size, bool)
    hole[inner] = False

    def on_canvas(frame: np.ndarray) -> np.ndarray:
        canvas = np.zeros((*size, 3), np.uint8)
        canvas[inner] = frame
        return canvas

    return lazy(video).each(on_canvas, *size), hole

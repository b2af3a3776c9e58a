"""Sampling between input frames, by windows where a video is long."""

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from soraxla.generation.blending import with_frames
from soraxla.generation.condition_latents import (
    AppendedLatents,
    Clip,
    starting_with,
    window_ends,
    window_of,
)
from soraxla.generation.context import Span, TaskContext
from soraxla.media.lazy_video import LazyVideo, Video, joined

# Yields clips to sample, receives their latents, returns a video.
Sampling = Generator[Clip, np.ndarray, LazyVideo]


def between(
    before: Video,
    after: Video,
    frames: int,
    context: TaskContext,
    *,
    steered_from: int | None = None,
    start: Video | None = None,
    strength: float = 1.0,
) -> Sampling:
    """Samples frames that lead from one clip to another; either may have no frame.

    The overlap of `before` is encoded by itself and conditions the beginning in place;
    the overlap of `after` is encoded by itself and appended at its own time.

    Args:
        steered_from: the frame of the video that `before` begins with, where the
            request's actions and camera steer the new frames; else None.
        start: frames from whose noised latents sampling starts, at `strength`.
    """
    first_new = None if steered_from is None else steered_from + len(before)
    before, after = ends_of(before, after, context)
    ends = context.window_ends(Span(len(before), frames, len(after)))
    if len(ends) > 1 and len(after) and not len(before):
        return (yield from _backward(after, frames, context, steered_from))
    total = len(before) + frames + len(after)
    skipped = 0
    if len(after) and not len(before):
        # Frames added in front put `after` on a whole latent, as in training.
        skipped = context.frames(context.latents(total)) - total
        total += skipped
    steering = None
    if first_new is not None:
        steering = context.steering(first_new - len(before) - skipped, total)
    appended = ()
    if len(after):
        first = context.place(total - len(after))
        appended = (AppendedLatents(latents=context.encode(after), place=first),)
    prefix = context.encode(before)
    clip = starting_with(prefix, ends[-1], context.fps, appended, steering)
    if start is not None:
        latents = context.encode(joined(before, start, after))
        latents[: len(prefix)] = prefix
        clip = replace(clip, latents=latents, strength=strength)
    video = context.decode((yield from by_windows(clip, context)), total)
    new = len(before), total - len(after)
    return with_frames(video, *new, before[-1:], after[:1])[skipped:]


def ends_of(
    before: Video, after: Video, context: TaskContext
) -> tuple[LazyVideo, LazyVideo]:
    """Returns the overlap at the end of one clip and at the beginning of another.

    They are read once, and kept in a file.
    """
    overlap, stored = context.overlap_frames, context.store.stored
    return stored(before[-overlap:]), stored(after[:overlap])


def _backward(
    after: Video, frames: int, context: TaskContext, steered_from: int | None
) -> Sampling:
    """Samples the frames before a clip, the last window first.

    Each window is the appended condition of the one before it.
    """
    parts, missing, window = [after], frames, context.window
    assert window is not None
    while missing:
        later = joined(*parts)[: context.overlap_frames]
        new = min(missing, context.frames(window) - len(later))
        missing -= new
        first = None if steered_from is None else steered_from + missing
        part = yield from between(after[:0], later, new, context, steered_from=first)
        parts.insert(0, part)
    return joined(*parts[:-1])


def by_windows(
    clip: Clip, context: TaskContext
) -> Generator[Clip, np.ndarray, np.ndarray]:
    """Samples all latents of a clip; the last ones of a window condition the next."""
    latents, start = clip.latents[:0], 0
    for end in window_ends(clip.grid.t, context.window, context.overlap):
        before = latents[start:]
        made = yield window_of(clip, start, end, before)
        latents = np.concatenate([latents[:start], made])
        start = end - context.overlap
    return latents

"""Clips at fewer pixels or frames, where `prepare` is asked for them."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines import transforms
from data_pipelines.shards import PrepareConfig
from data_pipelines.sources.media import Extent, Media, Source, SteeredSource
from data_pipelines.token_features import SIMULATOR
from soraxla.core.errors import UserError
from soraxla.media.timing import Timed, constant_rate


def resampled(media: Media, settings: PrepareConfig) -> Media:
    """Returns a clip or picture with sides and rate within those of the settings.

    A frame whose longer side exceeds `max_side` is scaled to it by a Lanczos filter
    that averages all of its pixels. Of a clip with a higher rate than `fps`, the frames
    nearest to each k / fps seconds are kept. Nothing is scaled up, and no frame is
    repeated.
    """
    if settings.max_side is not None:
        size = media.size and scaled_size(*media.size, settings.max_side)
        frames = (_scaled(frame, settings.max_side) for frame in media.frames)
        media = media._replace(frames=frames, size=size, ids=None)
    fps = settings.fps
    if fps is None or fps >= media.fps:
        return media
    camera = media.camera
    if camera is not None:
        camera = np.stack([*_picked(camera, media.fps, fps)])
    frames = _picked(media.frames, media.fps, fps)
    return media._replace(frames=frames, camera=camera, fps=fps, ids=None)


def resampled_extent(extent: Extent, settings: PrepareConfig) -> Extent:
    """Returns the size that a sample of this size has after `resampled`."""
    height, width, frames = extent[:3]
    if settings.max_side is not None and min(height, width) > 0:
        height, width = scaled_size(height, width, settings.max_side)
    if settings.fps is not None and extent.fps > settings.fps:
        frames = max(1, round(frames * settings.fps / extent.fps))
    return extent._replace(height=height, width=width, frames=frames)


def scaled_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Returns the largest height and width of this aspect within `max_side`."""
    longer = max(height, width)
    if longer <= max_side:
        return height, width
    shorter = max(1, round(min(height, width) * max_side / longer))
    return (shorter, max_side) if width > height else (max_side, shorter)


def check_resampling(settings: PrepareConfig, source: Source) -> None:
    """Raises UserError if the settings leave nothing, or contradict the source."""
    least = settings.vae_spatial * transforms.PATCH[1]
    if settings.max_side is not None and settings.max_side < least:
        raise UserError(
            f"max_side is {settings.max_side}, but a side needs at least {least} pixels"
        )
    asked = settings.max_side is not None or settings.fps is not None
    if asked and (settings.features or {}).get("source") == SIMULATOR:
        raise UserError(
            f"the features {SIMULATOR} belong to the source's own pixels and frames; "
            "leave max_side and fps out"
        )
    if settings.fps is None:
        return
    if not 0 < settings.fps < float("inf"):
        raise UserError(f"fps is {settings.fps}, expected more than 0")
    if isinstance(source, SteeredSource) and source.actions:
        raise UserError(
            f"fps is {settings.fps}, but the source has actions of each frame; leave "
            "fps out"
        )


def _scaled(
    frame: UInt8[np.ndarray, "h w 3"], max_side: int
) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = scaled_size(frame.shape[0], frame.shape[1], max_side)
    if (height, width) == frame.shape[:2]:
        return frame
    image = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _picked(
    frames: Iterable[np.ndarray], rate: float, fps: float
) -> Iterator[np.ndarray]:
    """Yields the frames of a clip of constant `rate` that a lower rate keeps."""
    timed = (Timed(i / rate, (i + 1) / rate, x) for i, x in enumerate(frames))
    return constant_rate(timed, fps)

"""A request in the units of its models: latents, patches and windows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.core.errors import UserError
from soraxla.generation.condition_latents import Steering, window_ends
from soraxla.generation.request import Request
from soraxla.generation.vae_streaming import decode_stream, encode_clip
from soraxla.media.lazy_video import Frame, FrameStore, LazyVideo, Video
from soraxla.packing.patchify import Patch

Latents = Float[np.ndarray, "_ _ _ z"]


class Span(NamedTuple):
    """Consecutive generated frames, and the condition frames on either side."""

    before: int
    new: int
    after: int


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """A request, and the VAE between its pixels and the latents of patches.

    Attributes:
        store: the condition frames beside generated ones; requests may share it.
    """

    request: Request
    vae: LoadedModel
    patch: Patch
    limit: int | None  # latent frames the model was trained with at most
    trained_tasks: tuple[str, ...] | None = None  # None if that is not known
    store: FrameStore = field(default_factory=FrameStore)

    @property
    def fps(self) -> float:
        """Frames a second of the video; `Pipeline.context` fills in a default."""
        assert self.request.fps is not None
        return self.request.fps

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
        """Latent frames that a window shares with the one before.

        They are as many as the request asks for, but fewer than the model's limit: each
        window must have a new frame.
        """
        asked = 1 + (self.request.overlap - 1) // self._temporal
        if self.limit is None or self.request.window is not None:
            return asked
        return max(1, min(asked, self.limit - 1))

    @property
    def overlap_frames(self) -> int:
        """Frames of as many latents at the beginning of a clip."""
        return self.frames(self.overlap)

    def frames(self, latents: int) -> int:
        """Returns the frames of a clip of so many latent frames."""
        return 1 + (latents - 1) * self._temporal

    def latents(self, frames: int) -> int:
        """Returns the latent frames of a clip, rounded up."""
        return 1 + -(-(frames - 1) // self._temporal)

    def place(self, frame: int) -> float:
        """Returns the time, in latents, of an appended condition's first frame."""
        return frame / self._temporal

    def encode(self, video: Video) -> Latents:
        """Returns latents of frames that are padded to whole patches and latents.

        Edges are repeated. The frames are read once.
        """
        cfg, (rows, columns) = self.vae.model, self.cell
        below, right = -video.shape[1] % rows, -video.shape[2] % columns
        if not len(video):
            sides = video.shape[1] + below, video.shape[2] + right
            grid = (side // cfg.spatial for side in sides)
            return np.zeros((0, *grid, cfg.latent_channels), np.float32)
        count = self.frames(self.latents(len(video)))
        padding = ((0, below), (0, right), (0, 0))

        def padded() -> Iterator[Frame]:
            frame = None
            for frame in video:
                frame = np.pad(frame, padding, mode="edge")
                yield frame
            assert frame is not None
            yield from [frame] * (count - len(video))

        shape = (count, video.shape[1] + below, video.shape[2] + right, 3)
        whole = LazyVideo(shape, lambda start, stop: islice(padded(), start, stop))
        return encode_clip(self.vae.params, cfg, whole)

    def decode(self, latents: Latents, frames: int) -> LazyVideo:
        """Returns the first frames, cut to the request's size.

        They are decoded whenever they are read, on the mesh that is then set.
        """
        height, width = self.request.height, self.request.width

        def decoded() -> Iterator[Frame]:
            for part in decode_stream(self.vae.params, self.vae.model, latents):
                for frame in part:
                    yield frame[:height, :width]

        return LazyVideo(
            (frames, height, width, 3),
            lambda start, stop: islice(decoded(), start, stop),
        )

    def steering(self, first: int, frames: int) -> Steering | None:
        """Returns actions and camera of frames from `first` on, in whole latents.

        Beyond the video the camera stands still and no action is set.
        """
        at = np.arange(first, first + self.frames(self.latents(frames)))
        within = at.clip(0, self.request.frames - 1)
        actions, camera = self.request.actions, self.request.camera
        if actions is not None:
            actions = actions[within] * (at == within)[:, None].astype(np.float32)
        if camera is not None:
            camera = camera[within]
        if actions is None and camera is None:
            return None
        return Steering(actions=actions, camera=camera)

    def window_ends(self, span: Span) -> list[int]:
        """Returns the latents at which the windows of a span end.

        Raises:
            UserError: windows are no longer than their overlap; the last one, the only
                one with the appended condition, has no new frame; or the model was not
                trained to continue one window by the next.
        """
        before, new, after = span
        ends = window_ends(
            self.latents(before + new + after), self.window, self.overlap
        )
        if len(ends) > 1:
            self._check_taught(span)
        if (
            len(ends) > 1
            and before
            and after
            and ends[-2] >= self.latents(before + new)
        ):
            assert self.window is not None
            raise UserError(
                f"windows of {self.frames(self.window)} frames that overlap by "
                f"{self.overlap_frames} make all new frames before they come to the "
                f"{after} after them: give a longer window or a shorter overlap"
            )
        return ends

    def _check_taught(self, span: Span) -> None:
        """Raises UserError if windows of the span need a task the model lacks."""
        backward = span.after and not span.before
        task = "extend_backward" if backward else "extend_forward"
        if self.trained_tasks is None or task in self.trained_tasks:
            return
        assert self.window is not None
        total, most = sum(span), self.frames(self.window)
        raise UserError(
            f"{total} frames are more than the {most} that are sampled at once, and "
            f"the model was not trained to continue a clip ({task} is not in its "
            f"trained_tasks): ask for at most {most} frames, or for a window of {total}"
        )

    @property
    def _temporal(self) -> int:
        return self.vae.model.temporal

"""The inputs of each task: frames, masks and strengths, checked when they are set.

`soraxla.packing.tasks` has the table of tasks, `soraxla.generation.tasks` what is
sampled for each.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.generation.blending import fit, fitted
from soraxla.media.lazy_video import LazyVideo

BRIDGE = 15  # default frames between two clips: 9 + 15 + 9 is 1 + 4k
DIRECTIONS = ("forward", "backward", "both")

# uint8 (t, h, w, 3), of any size; a request checks it.
Video = np.ndarray | LazyVideo


class Run(NamedTuple):
    """Consecutive frames of a video that are either input or generated."""

    frames: int
    generated: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A task with its inputs; `fitted` brings input frames to the request's size.

    Class attributes:
        keeps_length: the video has exactly the frames of the input clip.
        single_frames: an input is one frame, not a clip.
        conditions_on_overlap: an input clip must have the request's overlap at least.
        keeps_size: input frames are not scaled to the request's size.
        closed: the last frame leads to the first.
    """

    keeps_length: ClassVar[bool] = False
    single_frames: ClassVar[bool] = False
    conditions_on_overlap: ClassVar[bool] = False
    keeps_size: ClassVar[bool] = False
    closed: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """Rows of `soraxla.packing.tasks.TASKS` that the task is made of."""
        raise NotImplementedError

    @property
    def steerable(self) -> bool:
        """True if actions and a camera may steer the generated frames."""
        return False

    @property
    def bridge_strength(self) -> float | None:
        """The u at which sampling a bridge between clips starts; None without one."""
        return None

    def videos(self) -> dict[str, Video]:
        """Returns the input frames by field name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in fields.items() if k != "mask" and hasattr(v, "shape")}

    def default_frames(self) -> int | None:
        """Returns the length of a video whose request names none, if there is one."""
        return None

    def runs(self, frames: int, overlap_frames: int) -> list[Run]:
        """Returns the runs of a video of so many frames, input and generated in turn.

        Args:
            overlap_frames: frames of the request's overlap, 1 + 4k.
        """
        return [Run(frames, True)]

    def check(self, request: Any) -> None:
        """Raises UserError unless a request's frames and size fit the inputs."""
        inputs = sum(map(len, self.videos().values()))
        if self.keeps_length:
            if request.frames != inputs:
                raise UserError(
                    f"frames is {request.frames}, but the clip to change has {inputs}: "
                    f"ask for {inputs}"
                )
        elif request.frames <= inputs:
            raise UserError(
                f"frames is {request.frames}, expected more than the input's {inputs}: "
                f"ask for {self.default_frames() or inputs + 24}, for example"
            )

    def cropped(self, width: int, height: int, old: tuple[int, int]) -> "Task":
        """Returns the task with inputs of the `old` (height, width) cut to a size."""
        changes = {
            name: fitted(video, width, height, "crop")
            for name, video in self.videos().items()
            if video.shape[1:3] == old
        }
        return dataclasses.replace(self, **changes)

    def steered(self, request: Any) -> tuple[int, int]:
        """Returns the first frame that an action may lead to, and how many may."""
        new = new_frames(request)
        return request.frames - new, new


@dataclass(frozen=True, kw_only=True, eq=False)
class Animate(Task):
    """A video from a prompt, with its first frame, its last, both or neither.

    Both are uint8 (1, h, w, 3).
    """

    single_frames: ClassVar[bool] = True

    first: Video | None = field(default=None, repr=False)
    last: Video | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        if self.first is None:
            return ("text",) if self.last is None else ("last_frame",)
        return ("first_frame",) if self.last is None else ("first_last_frame",)

    @property
    def steerable(self) -> bool:
        return True

    def runs(self, frames: int, overlap_frames: int) -> list[Run]:
        first, last = int(self.first is not None), int(self.last is not None)
        middle = frames - first - last
        return _filled((first, False), (middle, True), (last, False))

    def steered(self, request: Any) -> tuple[int, int]:
        # No frame shows an action before the first, generated or not.
        return 1, new_frames(request) - (self.first is None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Extend(Task):
    """A clip and what comes after it, before it, or half of it each.

    `direction` is one of `DIRECTIONS`.
    """

    conditions_on_overlap: ClassVar[bool] = True

    video: Video = field(repr=False)
    direction: str = "forward"

    @property
    def names(self) -> tuple[str, ...]:
        names = {"forward": ("extend_forward",), "backward": ("extend_backward",)}
        return names.get(self.direction, ("extend_forward", "extend_backward"))

    @property
    def steerable(self) -> bool:
        return self.direction == "forward"

    def before(self, frames: int) -> int:
        """Returns how many frames of the video come before the clip."""
        new = frames - len(self.video)
        return {"forward": 0, "backward": new, "both": new // 2}[self.direction]

    def runs(self, frames: int, overlap_frames: int) -> list[Run]:
        before, new = self.before(frames), frames - len(self.video)
        return _filled((before, True), (len(self.video), False), (new - before, True))

    def check(self, request: Any) -> None:
        super().check(request)
        if self.direction not in DIRECTIONS:
            raise UserError(
                f"unknown direction {self.direction!r}"
                f"{nearest(self.direction, DIRECTIONS)}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Connect(Task):
    """Two clips and a bridge between them.

    `strength` is u, where sampling the bridge starts: from 1, noise, down to 0, a
    cross-fade of what follows the one and what leads to the other.
    """

    conditions_on_overlap: ClassVar[bool] = True

    before: Video = field(repr=False)
    after: Video = field(repr=False)
    strength: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        return ("connect",)

    @property
    def bridge_strength(self) -> float | None:
        return self.strength

    def default_frames(self) -> int | None:
        return len(self.before) + BRIDGE + len(self.after)

    def runs(self, frames: int, overlap_frames: int) -> list[Run]:
        before, after = len(self.before), len(self.after)
        bridge = frames - before - after
        return _filled((before, False), (bridge, True), (after, False))

    def check(self, request: Any) -> None:
        super().check(request)
        _check_bridge(self.strength)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loop(Task):
    """A clip and what leads from its end to its beginning; None generates the clip too.

    `strength` is as of `Connect`.
    """

    conditions_on_overlap: ClassVar[bool] = True
    closed: ClassVar[bool] = True

    video: Video | None = field(default=None, repr=False)
    strength: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        return ("loop",)

    @property
    def bridge_strength(self) -> float | None:
        return self.strength

    def default_frames(self) -> int | None:
        return None if self.video is None else len(self.video) + BRIDGE

    def clip_frames(self, frames: int, overlap_frames: int) -> int:
        """Returns the frames of the clip that a bridge leads back to its beginning."""
        if self.video is not None:
            return len(self.video)
        return frames - min(BRIDGE, frames - overlap_frames)

    def runs(self, frames: int, overlap_frames: int) -> list[Run]:
        """Returns the runs; a generated clip counts as an input of the bridge."""
        clip = self.clip_frames(frames, overlap_frames)
        return _filled((clip, False), (frames - clip, True))

    def check(self, request: Any) -> None:
        super().check(request)
        if self.video is None and request.frames < 2 * request.overlap:
            raise UserError(
                f"frames is {request.frames}, too few for a loop with an overlap of "
                f"{request.overlap}: ask for {2 * request.overlap} or more"
            )
        _check_bridge(self.strength)


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit(Task):
    """A clip sampled again from a noised state of it (SDEdit, arXiv 2108.01073).

    `strength` is u, where sampling starts on the grid before its shift: from 1, noise,
    nothing is kept.
    """

    keeps_length: ClassVar[bool] = True

    video: Video = field(repr=False)
    strength: float = 0.6

    @property
    def names(self) -> tuple[str, ...]:
        return ("edit",)

    def default_frames(self) -> int | None:
        return len(self.video)

    def check(self, request: Any) -> None:
        super().check(request)
        if not 0 < self.strength <= 1:
            raise UserError(
                f"strength is {self.strength}, expected above 0 (unchanged) up to 1 "
                "(noise)"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Inpaint(Task):
    """A clip generated again in whole patches where the mask, bool (h, w), is True."""

    keeps_length: ClassVar[bool] = True

    video: Video = field(repr=False)
    mask: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        own, wanted = self.mask.shape, self.video.shape[1:3]
        if self.mask.dtype != np.bool_ or own != wanted:
            raise UserError(
                f"the mask is {self.mask.dtype} {own}, expected bool {wanted} (height, "
                "width), the size of the clip: scale it"
            )
        if not self.mask.any():
            raise UserError(
                "the mask is empty, so nothing is generated: paint the hole white, or "
                "invert the mask"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return ("inpaint",)

    def default_frames(self) -> int | None:
        return len(self.video)

    def cropped(self, width: int, height: int, old: tuple[int, int]) -> "Task":
        white = self.mask.astype("uint8")[None, :, :, None].repeat(3, axis=-1)
        return dataclasses.replace(
            self,
            video=fitted(self.video, width, height, "crop"),
            mask=fit(white, width, height, "crop")[0, :, :, 0] > 0,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Outpaint(Task):
    """A clip in the middle of a larger canvas, the request's size, which is filled."""

    keeps_length: ClassVar[bool] = True
    keeps_size: ClassVar[bool] = True

    video: Video = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        return ("outpaint",)

    def default_frames(self) -> int | None:
        return len(self.video)

    def check(self, request: Any) -> None:
        super().check(request)
        height, width = self.video.shape[1:3]
        if height > request.height or width > request.width:
            raise UserError(
                f"the canvas of {request.width}x{request.height} is smaller than the "
                f"clip's {width}x{height}: give a larger one"
            )
        if (height, width) == (request.height, request.width):
            raise UserError(
                f"the canvas is {width}x{height}, the clip's size, so nothing is "
                "generated: give a larger one"
            )


def new_frames(request: Any) -> int:
    """Returns how many frames of a request are generated."""
    if request.task.keeps_length:
        return request.frames
    return request.frames - sum(map(len, request.task.videos().values()))


def _filled(*runs: tuple[int, bool]) -> list[Run]:
    """Returns the runs that have a frame."""
    return [Run(*run) for run in runs if run[0]]


def _check_bridge(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise UserError(
            f"strength is {strength}, expected 0 (a cross-fade) to 1 (noise)"
        )

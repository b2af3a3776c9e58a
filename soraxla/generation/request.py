"""Requests: a video to generate, its task, and the settings of sampling."""

import math
from dataclasses import dataclass, field

import numpy as np

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.diffusion.guidance import Guidance
from soraxla.diffusion.solvers import SOLVERS
from soraxla.generation.blending import FITS, fit, fitted
from soraxla.generation.task_inputs import Animate, Task, Video
from soraxla.media.lazy_video import LazyVideo

MIN_SIDE, MAX_SIDE, MAX_FRAMES = 16, 8192, 100_000
MAX_WORDS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A video to generate, of exactly this size; one frame is an image.

    Attributes:
        prompt: may be empty if the task has input frames.
        frames: of the whole video, input frames included.
        fps: of the video and its motion; None is the model's default.
        fit: brings frames of another size to the request's; see `blending.fit`.
        window: most frames to sample at once, rounded down to 1 + 4k; longer videos are
            sampled window by window. None is the model's own limit, if it has one.
        overlap: frames, rounded down to 1 + 4k, that condition a clip or a window on
            those before or after it. A model whose limit is no longer takes fewer.
        actions: float32 (frames, a), 1 for an action between the frame before and this
            one; for steerable models and tasks.
        camera: float32 (frames, 4, 4), camera to world; likewise.
        noise: number of the request's noise; None is its place in the call.
        short: the user's prompt, which expansion made `prompt` of; None without it.

    Raises:
        UserError: no prompt and no input frame, a prompt of over 1,000 words, or a
            number that is not between the limits; frames that are not uint8, or that
            do not fit the task, the size or the overlap.
    """

    prompt: str
    width: int
    height: int
    frames: int = 1
    fps: float | None = None
    task: Task = field(default_factory=Animate)
    fit: str = "cover"
    window: int | None = None
    overlap: int = 9
    actions: np.ndarray | None = field(default=None, repr=False)
    camera: np.ndarray | None = field(default=None, repr=False)
    noise: int | None = None
    short: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("width", MIN_SIDE, MAX_SIDE),
            ("height", MIN_SIDE, MAX_SIDE),
            ("frames", 1, MAX_FRAMES),
            ("fps", 0.1, 1000),
            ("overlap", 5, MAX_FRAMES),
            ("window", self.overlap + 4, MAX_FRAMES),
        ):
            value = getattr(self, name)
            if value is not None and not (
                math.isfinite(value) and low <= value <= high
            ):
                raise UserError(f"{name} is {value}, expected {low} to {high}")
        if self.fit not in FITS:
            raise UserError(f"unknown fit {self.fit!r}{nearest(self.fit, FITS)}")
        inputs = self.task.videos()
        for name, video in inputs.items():
            self._check_video(name, video)
        words = len(self.prompt.split())
        if not (0 if inputs else 1) <= words <= MAX_WORDS:
            raise UserError(
                f"the prompt has {words} words, expected 1 to {MAX_WORDS}: describe "
                "the video in a sentence or two"
            )
        self.task.check(self)
        self._check_steering()

    def about(self) -> dict[str, str]:
        """Returns the tags of the file that holds the video: its prompts."""
        short = {} if self.short is None else {"comment": f"prompt: {self.short}"}
        return {"description": self.prompt, **short} if self.prompt else {}

    def fitted(self, video: Video) -> LazyVideo:
        """Returns the frames at the request's size."""
        return fitted(video, self.width, self.height, self.fit)

    def _check_video(self, name: str, video: Video) -> None:
        shape, dtype = video.shape, video.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise UserError(
                f"the {name} is {dtype} {shape}, expected uint8 (frames, height, width,"
                " 3): convert it to RGB of 0 to 255"
            )
        if self.task.single_frames and len(video) > 1:
            raise UserError(
                f"the {name} frame is a clip of {len(video)} frames, expected one"
            )
        if self.task.conditions_on_overlap and len(video) < self.overlap:
            raise UserError(
                f"the {name} clip has {len(video)} frames, fewer than the overlap of "
                f"{self.overlap}: give a longer clip or a shorter overlap, from 5 on"
            )
        small = video.shape[1] < self.height or video.shape[2] < self.width
        if self.fit == "crop" and small and not self.task.keeps_size:
            frame = np.asarray(video[:1])
            fit(frame, self.width, self.height, self.fit)  # says so

    def _check_steering(self) -> None:
        for name, rest in (("actions", None), ("camera", (4, 4))):
            rows = getattr(self, name)
            if rows is None:
                continue
            if not self.task.steerable:
                raise UserError(
                    f"{name} steer what follows a prompt, a frame or a clip: leave "
                    "them out of other tasks"
                )
            if len(rows) != self.frames or (rest and rows.shape[1:] != rest):
                raise UserError(
                    f"{name} are {rows.shape}, expected a row for each of the "
                    f"{self.frames} frames"
                )


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Settings of sampling, for all requests of a call.

    Attributes:
        cfg_scale: 1 is no guidance; u + cfg_scale·(c − u).
        cfg_interval: times between which guidance acts.
        image_scale: guidance towards the condition tokens; see `Guidance`.
        condition_noise: the time to which condition tokens are noised for the network;
            the video has the input frames unchanged.
        negative_prompt: the prompt that guidance leads away from; "" is any video.
        takes: samples of each video; the sample whose joins with input frames show
            least is kept.
        seed: request number i of a call gets the noise of (seed, i) first, unless it
            names another number.
    """

    steps: int = 30
    solver: str = "euler"
    cfg_scale: float = 4.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    image_scale: float = 1.0
    condition_noise: float = 0.0
    negative_prompt: str = ""
    takes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise UserError(
                f"unknown solver {self.solver!r}{nearest(self.solver, SOLVERS)}"
            )
        if not 1 <= self.steps <= 1000:
            raise UserError(f"steps is {self.steps}, expected 1 to 1000")
        if not 1 <= self.takes <= 100:
            raise UserError(f"takes is {self.takes}, expected 1 to 100")
        if not 0 <= self.condition_noise <= 0.5:
            raise UserError(
                f"condition_noise is {self.condition_noise}, expected 0 to 0.5"
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")
        _ = self.guidance  # checked when built

    @property
    def guidance(self) -> Guidance:
        return Guidance(
            cfg_scale=self.cfg_scale,
            image_scale=self.image_scale,
            interval=self.cfg_interval,
        )

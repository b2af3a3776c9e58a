"""The types of WorldBench: asks, cases with their truth, measures and families."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import Size
from data_pipelines.worlds.voxel_actions import ACTIONS
from soraxla.core.errors import UserError
from soraxla.packing.controls import Controls

# Clip i of a dataset has the seed 2³²·s + i (`data_pipelines.worlds.builder`). Seeds
# from here to 2³² are in no dataset of fewer than three billion clips.
FIRST_SEED = 3_000_000_000

_STRIDE, _TRIES = 1_000_000, 300

SIZE = Size(width=64, height=64, frames=33, fps=16.0)

Video = UInt8[np.ndarray, "t h w 3"]


class Ask(NamedTuple):
    """A request for a clip of `size` from a prompt and 1 + 4k condition frames.

    There may be no condition frames. Controls have a row for each frame, condition
    frames included; actions are those of the world of voxels.
    """

    prompt: str
    condition: UInt8[np.ndarray, "k h w 3"]
    size: Size
    actions: Float[np.ndarray, "t a"] | None = None
    camera: Float[np.ndarray, "t 4 4"] | None = None


def supported(ask: Ask, controls: Controls) -> Ask:
    """Returns the ask without the controls that a model does not have."""
    return ask._replace(
        actions=ask.actions if controls.actions == ACTIONS else None,
        camera=ask.camera if controls.camera else None,
    )


def unsupported(ask: Ask, controls: Controls) -> tuple[str, ...]:
    """Returns the ask's controls that the model lacks: "actions" if any, "camera"."""
    steering = ("actions", "camera")
    kept = supported(ask, controls)
    lost = [n for n in steering if getattr(kept, n) is None is not getattr(ask, n)]
    return tuple(name for name in lost if getattr(ask, name).any())


# Yields (index of the ask, clip) as they are done. A clip begins with the condition
# frames.
Generate = Callable[[Sequence[Ask]], Iterable[tuple[int, np.ndarray]]]
# Returns a VAE's reconstruction of an ask's clip.
Autoencode = Callable[[Ask, np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A held-out clip; the model is conditioned on its first `condition_frames`.

    `steered` names the controls that the model also gets: "actions", "camera".
    """

    seed: int
    truth: Episode
    condition_frames: int
    steered: tuple[str, ...] = ()

    @property
    def ask(self) -> Ask:
        frames, height, width, _ = self.truth.video.shape
        size = Size(width=width, height=height, frames=frames, fps=self.truth.fps)
        controls = {name: getattr(self.truth, name) for name in self.steered}
        return Ask(
            self.truth.caption,
            self.truth.video[: self.condition_frames],
            size,
            **controls,
        )


class Score(NamedTuple):
    """The score of one clip.

    `values` has a number for each measure of the family, NaN if the truth shows nothing
    to measure. `curves` are for plots: pairs of the truth and the generated clip, with
    a value per frame. `note` describes the clip in words.
    """

    values: Mapping[str, float]
    curves: Mapping[str, tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of a family.

    Attributes:
        unit: "px", "s", or "share" of 1.
        what: its description in a line.
        higher: higher is better.
        copies: a clip that repeats the last condition frame is one of its floors.
    """

    unit: str
    what: str
    higher: bool = False
    copies: bool = True


@dataclass(frozen=True, kw_only=True)
class Family:
    """A question about a world.

    Attributes:
        case: the case of a seed; a pure function. UserError for a size without any
            case.
        score: scores a clip against the truth; NaN depends on the case only.
        chance: chance levels, by the name of the guess.
        clips: the default number of clips.
    """

    what: str
    measures: Mapping[str, Measure]
    case: Callable[[int, Size], Case]
    score: Callable[[Case, np.ndarray], Score]
    chance: Callable[[Sequence[Case]], dict[str, float]] = lambda cases: {}
    clips: int = 24


def candidates(seed: int) -> Iterator[int]:
    """Yields seeds to try for a case; all are held out."""
    return iter(range(seed, seed + _TRIES * _STRIDE, _STRIDE))


def nothing_to_ask(world: str, size: Size) -> UserError:
    """Returns the error for a size without a suitable candidate."""
    return UserError(
        f"no clip of {size.width}x{size.height} pixels and {size.frames} frames of the "
        f"world {world} fits this family: use more frames"
    )


def half_diagonal(video: np.ndarray) -> float:
    """Returns half the diagonal in pixels: the error of a missing thing's position."""
    return float(np.hypot(*video.shape[1:3])) / 2


def still(case: Case) -> Video:
    """Returns a clip that repeats its last condition frame."""
    frames = np.arange(len(case.truth.video)).clip(0, max(case.condition_frames - 1, 0))
    return case.truth.video[frames]

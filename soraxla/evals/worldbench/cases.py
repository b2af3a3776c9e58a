"""What a model is asked, the truth it is measured against, and what a family is."""

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

# Clip i of a dataset has the seed 2³²·s + i (`data_pipelines.worlds.builder`); from
# here to 2³² lie seeds that no dataset has, unless of more than three billion clips.
FIRST_SEED = 3_000_000_000

_STRIDE, _TRIES = 1_000_000, 300

SIZE = Size(width=64, height=64, frames=33, fps=16.0)

Video = UInt8[np.ndarray, "t h w 3"]


class Ask(NamedTuple):
    """A clip of `size` from a prompt and its first frames, 1 + 4k of them or none.

    What steers it has a row for each frame, given ones included; actions are those of
    the world of voxels.
    """

    prompt: str
    given: UInt8[np.ndarray, "k h w 3"]
    size: Size
    actions: Float[np.ndarray, "t a"] | None = None
    camera: Float[np.ndarray, "t 4 4"] | None = None


def heard(ask: Ask, known: Controls) -> Ask:
    """The ask without what a model is not steered by."""
    return ask._replace(
        actions=ask.actions if known.actions == ACTIONS else None,
        camera=ask.camera if known.camera else None,
    )


def unheard(ask: Ask, known: Controls) -> tuple[str, ...]:
    """What such a model is not told: "actions" if there are any, "camera"."""
    steering = ("actions", "camera")
    told = heard(ask, known)
    lost = [n for n in steering if getattr(told, n) is None is not getattr(ask, n)]
    return tuple(name for name in lost if getattr(ask, name).any())


# Yields (place in what was asked, clip) as they are done. The first frames of a clip
# are those given.
Generate = Callable[[Sequence[Ask]], Iterable[tuple[int, np.ndarray]]]
# What a VAE makes of the clip of an ask.
Autoencode = Callable[[Ask, np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A held-out clip, of which the first `given` frames are shown to the model.

    `steered` names what else it is told of the clip: "actions", "camera".
    """

    seed: int
    truth: Episode
    given: int
    steered: tuple[str, ...] = ()

    @property
    def ask(self) -> Ask:
        frames, height, width, _ = self.truth.video.shape
        size = Size(width=width, height=height, frames=frames, fps=self.truth.fps)
        told = {name: getattr(self.truth, name) for name in self.steered}
        return Ask(self.truth.caption, self.truth.video[: self.given], size, **told)


class Score(NamedTuple):
    """What one clip is worth.

    `values` has a number for each measure of the family, NaN where the truth shows
    nothing to measure. `curves` are for the eye: pairs of the truth and what was made,
    a value a frame. `note` is what was seen, in words.
    """

    values: Mapping[str, float]
    curves: Mapping[str, tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a family.

    Attributes:
        unit: "px", "s", or "share" of 1.
        what: in a line.
        higher: better when higher.
        copies: a clip in which the last given frame stands still is a floor of it.
    """

    unit: str
    what: str
    higher: bool = False
    copies: bool = True


@dataclass(frozen=True, kw_only=True)
class Family:
    """A question about a world.

    Attributes:
        case: the case of a seed; a pure function. UserError for a size in which
            nothing can be asked.
        score: a clip against the truth; NaN depends on the case alone.
        chance: what guessing gets, by the name of the guess.
        clips: how many are asked for unless said otherwise.
    """

    what: str
    measures: Mapping[str, Measure]
    case: Callable[[int, Size], Case]
    score: Callable[[Case, np.ndarray], Score]
    chance: Callable[[Sequence[Case]], dict[str, float]] = lambda cases: {}
    clips: int = 24


def candidates(seed: int) -> Iterator[int]:
    """Seeds to try for a case until one shows what is asked; all are held out."""
    return iter(range(seed, seed + _TRIES * _STRIDE, _STRIDE))


def nothing_to_ask(world: str, size: Size) -> UserError:
    """What is said where no candidate will do."""
    return UserError(
        f"no clip of {size.width}x{size.height} pixels and {size.frames} frames of the "
        f"world {world} shows what is asked: ask for more frames"
    )


def half_diagonal(video: np.ndarray) -> float:
    """Pixels; what a thing that is not there is away from its place."""
    return float(np.hypot(*video.shape[1:3])) / 2


def still(case: Case) -> Video:
    """A clip that goes on with its last given frame."""
    frames = np.arange(len(case.truth.video)).clip(0, max(case.given - 1, 0))
    return case.truth.video[frames]

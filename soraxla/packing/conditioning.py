"""The conditions of a visit to a clip, and how often each is chosen. NumPy only.

Condition tokens are not generated. In place are a prefix of the clip's latent frames,
which a causal VAE encodes as it would without the rest, and the surroundings of a hole,
from an encoding in which the hole is grey. Appended are single frames and the clip's
end, encoded by themselves and placed at their true time: in place they would show the
frames before them. One mixture of them trains every task.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from soraxla.core.errors import UserError
from soraxla.core.types import latent_frames
from soraxla.packing.tasks import SHARES, TASKS, Appended, InPlace, shares_with

GREYED = 0.05  # share of clips that are encoded with a hole as well
TAILS = (5, 9)  # frames of a clip's ends that are encoded by themselves
_GREY = 128  # fills a hole: the nearest value to the middle of −1…1
MEAN_FEW = 4.25  # latent frames of `a_few`, about: 3.5 without ends, 4.5 with them
FEW_ENDS = 0.25  # share of those that lead into an end
_TAIL_LATENTS = np.array([0, *map(latent_frames, TAILS)])


@dataclass(frozen=True, kw_only=True)
class ConditioningMixture:
    """Fractions of visits by their conditions; all but `middle` sum to 1.

    `soraxla.packing.tasks.TASKS` names the tasks that each component trains.

    Attributes:
        none: no condition.
        first: the first frame.
        prefix: at least the first two latent frames.
        tail: the last 5 or 9 frames.
        first_last: the first and the last frame.
        both_ends: a prefix, and the last 5 or 9 frames.
        frames: some single frames.
        spatial: the surroundings of a hole, or the inside of a border.
        middle: fraction of the `prefix` visits that start inside the clip.
    """

    none: float = 1.0
    first: float = 0.0
    prefix: float = 0.0
    tail: float = 0.0
    first_last: float = 0.0
    both_ends: float = 0.0
    frames: float = 0.0
    spatial: float = 0.0
    middle: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0 <= share <= 1:
                raise UserError(
                    f"mixture.{field.name} is {share}, expected a share of 0 to 1"
                )
        total = float(self.shares.sum())
        if abs(total - 1) > 1e-6:
            raise UserError(
                f"the shares of the mixture make {total:g}, expected 1: raise or lower "
                f"none ({self.none:g}) by the difference"
            )

    @property
    def shares(self) -> Float[np.ndarray, " shares"]:
        """Shares in the order of `SHARES`."""
        return np.array([getattr(self, task) for task in SHARES])


EVERY_TASK = ConditioningMixture(
    none=0.40,
    first=0.15,
    prefix=0.15,
    tail=0.08,
    first_last=0.07,
    both_ends=0.07,
    frames=0.05,
    spatial=0.03,
)


def trained_tasks(mixture: ConditioningMixture, next_share: float) -> tuple[str, ...]:
    """Returns the names of the tasks that a training teaches, in order of `TASKS`.

    Args:
        next_share: see `PackConfig`; its visits continue a clip's beginning.
    """
    taught = {share for share in SHARES if getattr(mixture, share) > 0}
    if next_share > 0:
        taught.add(TASKS["extend_forward"].share)
    return tuple(name for name, task in TASKS.items() if task.share in taught)


class Stored(NamedTuple):
    """Condition latents that a dataset holds of k samples; columns of its index."""

    alone: Int[np.ndarray, " k"]  # single frames, the last frame among them
    tails: Int[np.ndarray, " k"]  # ends: how many of TAILS, from 5 on
    spatial: Int[np.ndarray, " k"]  # encodings with a hole, 0 or 1


class Conditions(NamedTuple):
    """The conditions of k visits."""

    start: Int[np.ndarray, " k"]  # the clip's latent frame that the visit begins with
    prefix: Int[np.ndarray, " k"]  # latent frames conditioned on, from `start` on
    frames: Int[np.ndarray, " k"]  # bits: the stored single frames that are appended
    tail: Int[np.ndarray, " k"]  # 1 + the place in TAILS of the appended end, or 0
    spatial: Bool[np.ndarray, " k"]  # the surroundings of a hole

    @property
    def appended(self) -> Int[np.ndarray, " k"]:
        """Latent frames that are appended to the clip."""
        return np.bitwise_count(self.frames).astype(np.int64) + _TAIL_LATENTS[self.tail]


def conditions_of(
    mixture: ConditioningMixture,
    chances: Mapping[str, Float[np.ndarray, " k"]],
    u: Float[np.ndarray, "k 4"],
    frames: Int[np.ndarray, " k"],
    stored: Stored,
) -> Conditions:
    """Chooses the conditions of visits; a clip that lacks one is visited without.

    Few clips have an encoding with a hole. They choose it often enough to give it its
    share of all visits. Every other choice is that of `first_to_arrive`.

    Args:
        chances: random numbers in [0, 1), keyed by the name of each share above 0.
        u: further random numbers in [0, 1).
        frames: latent frames of each clip, which are all of it if anything is stored.
    """
    holes = np.where(stored.spatial > 0, min(1.0, mixture.spatial / GREYED), 0.0)
    around = chances.get("spatial", np.ones(len(u))) < holes
    share = first_to_arrive(
        {name: getattr(mixture, name) for name in SHARES if name != "spatial"},
        chances,
        len(u),
    )

    def asked(
        *, in_place: InPlace | None = None, appended: Appended | None = None
    ) -> Bool[np.ndarray, " k"]:
        names = shares_with(in_place=in_place, appended=appended)
        return np.isin(share, names) & ~around

    def within(low: int, high: np.ndarray, random: np.ndarray) -> np.ndarray:
        """Evenly of low … high, but high where that is below low."""
        return np.minimum(low + (random * (high - low + 1)).astype(np.int64), high)

    moves = frames >= 2
    ends_asked = asked(in_place="beginning", appended="end")
    prefixed = asked(in_place="beginning") & ~ends_asked
    middle = prefixed & (u[:, 2] < mixture.middle) & (frames >= 4)
    start = np.where(middle, within(1, frames - 3, u[:, 3]), 0)
    prefix = np.zeros_like(frames)
    prefix[asked(in_place="first frame") & moves] = 1
    prefix = np.where(prefixed & moves, within(2, frames - start - 1, u[:, 1]), prefix)
    ends = ends_asked & (frames >= 3) & (stored.tails > 0)
    prefix = np.where(ends, np.maximum(within(2, frames - 2, u[:, 2]), 1), prefix)
    tailed = ends | (asked(appended="end") & ~ends_asked & (stored.tails > 0))
    tail = np.where(tailed, 1 + (u[:, 1] * stored.tails).astype(np.int64), 0)
    lasted = asked(appended="last frame")
    last = lasted & (stored.alone > 0)
    prefix[lasted & ~last] = 0
    single = np.where(last, 1 << np.maximum(stored.alone - 1, 0), 0)
    some = 1 + (u[:, 1] * (2**stored.alone - 1)).astype(np.int64)
    single = np.where(asked(appended="frames") & (stored.alone > 0), some, single)
    return Conditions(start, prefix, single, tail, around)


def first_to_arrive(
    shares: Mapping[str, float],
    chances: Mapping[str, Float[np.ndarray, " k"]],
    length: int,
) -> Shaped[np.ndarray, " k"]:
    """Returns a name for each of k visits, in proportion to the shares.

    Each name arrives after an exponential time, at its share as the rate, and the first
    is chosen. A time depends on its name's numbers and share only: a name that is given
    a share s, while the others keep their proportions, changes the choice of a fraction
    s of the visits, each to itself. A share of 0 changes none.
    """
    names = [name for name, share in shares.items() if share > 0]
    if not names:
        return np.full(length, "none")
    times = [-np.log1p(-chances[name]) / shares[name] for name in names]
    return np.array(names)[np.argmin(times, axis=0)]


def cut(
    u: Float[np.ndarray, "k 4"], steps: Int[np.ndarray, " k"], share: float
) -> Int[np.ndarray, " k"]:
    """Returns the latent frames, in steps of a patch, that visits keep.

    A share of visits is cut to n steps, in proportion to 1/n: every n then takes as
    many tokens, and most visits are short.
    """
    cdf = harmonic(steps)
    short = np.searchsorted(cdf, u[:, 1] * cdf[steps - 1], side="right") + 1
    return np.where(u[:, 0] < share, np.minimum(short, steps), steps)


def harmonic(steps: Int[np.ndarray, " k"]) -> Float[np.ndarray, " n"]:
    """Returns 1, 1 + 1/2, …, up to the largest of `steps`."""
    return np.cumsum(1.0 / np.arange(1, steps.max() + 1))


def a_few(
    u: Float[np.ndarray, "k 4"],
    frames: Int[np.ndarray, " k"],
    tails: Int[np.ndarray, " k"],
) -> tuple[Int[np.ndarray, " k"], Conditions]:
    """Chooses windows of a few latent frames: their lengths and conditions.

    A window has one to three condition frames from anywhere in a clip and one or two
    frames to generate, or two to four that lead into the clip's end, which is appended.
    Motion follows from the frames just before. A visit to a whole clip has few latents
    that are so determined, and next to none when their own noise hides them.

    Args:
        u: random numbers in [0, 1).
        frames: latent frames of each clip; a clip of one has no condition.
        tails: stored ends that may be appended, of clips that are packed whole.
    """
    ends = (u[:, 0] < FEW_ENDS) & (tails > 0) & (frames >= 3)
    prefix = np.minimum(1 + (3 * u[:, 1]).astype(np.int64), frames - 1 - ends)
    new = np.where(ends, 2 + (3 * u[:, 2]).astype(np.int64), 1 + (u[:, 2] >= 0.5))
    kept = np.minimum(prefix + new, frames)
    anywhere = (u[:, 3] * (frames - kept + 1)).astype(np.int64)
    start = np.where(ends, frames - kept, anywhere)
    tail = np.where(ends, 1 + (u[:, 3] * tails).astype(np.int64), 0)
    none = np.zeros_like(frames)
    return kept, Conditions(start, prefix, none, tail, none.astype(bool))


def greyed(
    video: UInt8[np.ndarray, "t h w 3"], hole: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns the video with grey in the hole."""
    return np.where(hole[None, :, :, None], np.uint8(_GREY), video)

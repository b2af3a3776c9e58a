"""The interface of metrics: a row of numbers for every clip, and a function of rows.

Rows are small, so a set of any length is measured in the memory of one clip. They are
stacked in the order of clip names and summed in float64, so a metric has the same
digits whatever order, number of devices or number of processes the rows came from.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from soraxla.core.errors import UserError

T = TypeVar("T")

RESAMPLES = 1000
LEVEL = 0.95

# Clip names and their rows.
Rows = Mapping[str, Float[np.ndarray, "..."]]
Need = Literal["reference", "pairs", "prompts"]


@dataclass(frozen=True)
class Metric:
    """A measured value of `n` items, and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@runtime_checkable
class Extractor(Protocol):
    """A network that turns frames into features; `name` and `sha256` identify it.

    A network of videos turns `frames` frames into one row; others, for which it is
    None, turn each frame into a row.
    """

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def frames(self) -> int | None: ...

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"]
    ) -> Float[np.ndarray, "n d"]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A clip of a set.

    Attributes:
        frames: (t, h, w, 3) uint8.
        reference: the clip of the same name in the reference set; None without pairs.
        prompt: None without prompts.
        fps: None if it is unknown.
    """

    name: str
    frames: UInt8[np.ndarray, "t h w 3"]
    reference: UInt8[np.ndarray, "t h w 3"] | None = None
    prompt: str | None = None
    fps: float | None = None
    _cache: dict = field(default_factory=dict, repr=False)

    def features(self, extractor: Extractor, frames: int) -> Float[np.ndarray, "n d"]:
        """Returns the features of a clip's frames, computed once per extractor.

        The frames are evenly spaced, a single one is the middle one. A network of
        videos gets the first frames of the clip instead, for one row. A clip of fewer
        frames repeats some, so that every clip has as many.
        """
        video = extractor.frames is not None
        frames = extractor.frames if extractor.frames is not None else frames

        def made() -> np.ndarray:
            places = _places(len(self.frames), frames, first=video)
            return np.asarray(extractor(self.frames[places]), float)

        return self.cached((extractor.sha256, frames), made)

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns what `make` returns, which is called once for the key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def _places(length: int, count: int, *, first: bool) -> np.ndarray:
    """Returns the indices of `count` frames, the first or evenly spaced ones."""
    if first and length >= count:
        return np.arange(count)
    if count == 1:
        return np.array([(length - 1) // 2])
    return np.linspace(0, length - 1, count).round().astype(int)


@dataclass(frozen=True, kw_only=True)
class SetMetric:
    """A metric of a set of clips.

    Attributes:
        needs: "reference" for a metric of two sets, "pairs" for one that compares clips
            of one name, "prompts" for one of clips and their prompts.
        better: the direction of an improvement; None if neither is one.
    """

    needs: ClassVar[Need | None] = None
    better: ClassVar[Literal["higher", "lower"] | None] = None

    def row(self, clip: Clip) -> Float[np.ndarray, "..."]:
        """Returns the numbers of a clip, of one shape for all clips."""
        raise NotImplementedError

    def prepared(self, rows: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """Returns the rows that are resampled; by default, those of the clips.

        A metric that compares a clip with all others does so here, once.
        """
        return rows

    def condensed(
        self, sets: Sequence[Float[np.ndarray, "_ ..."]]
    ) -> Sequence[Float[np.ndarray, "_ ..."]]:
        """Returns the prepared rows that resamples are drawn from; by default, all.

        A metric whose statistic is slow gives smaller rows of nearly its spread.

        Args:
            sets: the rows of all sets that are compared.
        """
        return sets

    def statistic(
        self,
        rows: Float[np.ndarray, "n ..."],
        reference: Float[np.ndarray, "m ..."] | None,
    ) -> float:
        """Returns the metric of prepared rows; by default, their mean."""
        del reference
        return float(rows.mean())

    def update(self, rows: Rows, clips: Iterable[Clip]) -> Rows:
        """Returns the rows with those of further clips.

        Raises:
            UserError: two clips have one name.
        """
        return self.merge(
            rows, *({clip.name: np.asarray(self.row(clip))} for clip in clips)
        )

    def merge(self, *parts: Rows) -> Rows:
        """Returns the rows of all parts, such as those of several hosts.

        Raises:
            UserError: two parts have a clip of one name.
        """
        merged: dict[str, Float[np.ndarray, ...]] = {}
        for part in parts:
            twice = merged.keys() & part.keys()
            if twice:
                raise UserError(
                    f"clip {min(twice)!r} was measured twice, expected names that "
                    "differ; rename one"
                )
            merged |= part
        return merged

    def compute(self, rows: Rows, reference: Rows | None = None) -> Metric:
        """Returns the metric and its interval, by 1,000 bootstrap resamples of clips.

        A resample repeats clips, which moves a distance between sets upwards. So the
        interval has the spread of the resamples around their mean, at the value.

        Raises:
            UserError: there is no clip.
        """
        sets = [
            self.prepared(stacked(each))
            for each in (rows, reference)
            if each is not None
        ]
        value = self.statistic(*pair_of(sets))
        one, other = pair_of(self.condensed(sets))
        draws = [
            self.statistic(one[picks], None if other is None else other[others])
            for picks, others in resamples(len(one), 0 if other is None else len(other))
        ]
        low, high = interval(value, np.array(draws))
        return Metric(value, low, high, len(one))


def rows_of(metrics: Mapping[str, SetMetric], clip: Clip) -> dict[str, Rows]:
    """Returns the row of a clip for each metric; they share its features."""
    return {name: metric.update({}, [clip]) for name, metric in metrics.items()}


def merged_rows(
    metrics: Mapping[str, SetMetric], parts: Sequence[Mapping[str, Rows]]
) -> dict[str, Rows]:
    """Returns the rows of all parts, which `rows_of` returned, for each metric.

    Raises:
        UserError: two clips have one name.
    """
    return {
        name: metric.merge(*(part[name] for part in parts))
        for name, metric in metrics.items()
    }


def stacked(rows: Rows) -> Float[np.ndarray, "n ..."]:
    """Returns the rows in the order of their clips' names, float64.

    Raises:
        UserError: there is none.
    """
    if not rows:
        raise UserError("there is no clip to measure, expected at least 1; add some")
    return np.stack([np.asarray(rows[name], np.float64) for name in sorted(rows)])


def pair_of(sets: Sequence[T]) -> tuple[T, T | None]:
    """Returns the rows of a set, and those of its reference or None."""
    return sets[0], sets[1] if len(sets) > 1 else None


def resamples(n: int, m: int):
    """Yields the bootstrap's picks of n clips and m reference clips, from seed 0."""
    rng = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        yield rng.integers(n, size=n), rng.integers(m, size=m) if m else None


def interval(value: float, draws: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """Returns the middle 95 % of the resamples, moved so that their mean is `value`."""
    spread = draws - draws.mean()
    low, high = np.quantile(spread, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return value + float(low), value + float(high)


def bootstrap(values: Float[np.ndarray, " n"]) -> Metric:
    """Returns the mean of at least one value and its bootstrap interval (Efron, 1979).

    The interval holds the middle 95 % of the means of 1,000 resamples.
    """
    picks = np.random.default_rng(0).integers(
        len(values), size=(RESAMPLES, len(values))
    )
    low, high = np.quantile(values[picks].mean(axis=1), (0.025, 0.975))
    return Metric(float(values.mean()), float(low), float(high), len(values))

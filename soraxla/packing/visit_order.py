"""The order of visits: the dataset and the sample of each. NumPy only.

The visits to one dataset form an endless stream of epochs, each a permutation of its
samples. Of several datasets, each has a share of all visits, evenly mixed, and a stream
by itself. A dataset that grows has more samples from some epoch on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from soraxla.core.errors import UserError
from soraxla.core.keyed_random import permutation

# The visits of a block, in which each dataset has the same number of visits: shares
# count in ten-thousandths.
_BLOCK = 10_000
# Consecutive visits are this far apart among the block's visits sorted by dataset. It
# is near the golden section of the block, and has no divisor in common with it, so that
# any run of visits has about the shares of the block.
_STRIDE = 6_181


class Stage(NamedTuple):
    """The first epoch of a dataset that visits so many samples, the first ones."""

    epoch: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The visits to one dataset.

    Attributes:
        first: the dataset's first sample among all.
        stages: from epoch 0 on; a later one has at least as many samples.
        visits: of a block of 10,000.
    """

    first: int
    stages: tuple[Stage, ...]
    visits: int = _BLOCK

    @property
    def share(self) -> float:
        """The dataset's share of all visits."""
        return self.visits / _BLOCK

    @property
    def began_with(self) -> slice:
        """The samples of epoch 0."""
        return slice(self.first, self.first + self.stages[0].samples)

    def samples(
        self, seed: int, purpose: str, rank: int, length: int
    ) -> Int[np.ndarray, " length"]:
        """Returns the samples of visits rank … rank + length − 1 to the dataset."""
        visited: list[np.ndarray] = []
        epoch, rank, count = self._place(rank)
        while length > 0:
            order = _epochs(seed, purpose)(epoch, count)[rank : rank + length]
            visited.append(order + self.first)
            length -= len(order)
            epoch, rank = epoch + 1, 0
            count = [s.samples for s in self.stages if s.epoch <= epoch][-1]
        return np.concatenate(visited) if visited else np.zeros(0, np.int64)

    def next_epoch(self, rank: int) -> int:
        """Returns the first epoch that begins with visit `rank` or after it."""
        epoch, rest, _ = self._place(rank)
        return epoch + (rest > 0)

    def _place(self, rank: int) -> tuple[int, int, int]:
        """Returns a visit's epoch, its rank in it, and the samples of the epoch."""
        for (begin, samples), (end, _) in pairwise(self.stages):
            if rank < (end - begin) * samples:
                return begin + rank // samples, rank % samples, samples
            rank -= (end - begin) * samples
        begin, samples = self.stages[-1]
        return begin + rank // samples, rank % samples, samples


@dataclass(frozen=True, kw_only=True, eq=False)
class VisitOrder:
    """The visits to all datasets, whose samples are numbered one after the other."""

    streams: tuple[Stream, ...]

    def samples(self, seed: int, first: int, length: int) -> Int[np.ndarray, " length"]:
        """Returns the samples of visits first … first + length − 1."""
        if len(self.streams) == 1:
            return self.streams[0].samples(seed, "epoch", first, length)
        visited = np.empty(length, np.int64)
        labels = self._labels[(first % _BLOCK + np.arange(length)) % _BLOCK]
        for number, stream in enumerate(self.streams):
            own = labels == number
            rank = self.rank(number, first)
            purpose = f"epoch of dataset {number}"
            visited[own] = stream.samples(seed, purpose, rank, int(own.sum()))
        return visited

    def rank(self, number: int, visit: int) -> int:
        """Returns how many visits before a visit are to a dataset."""
        block, start = divmod(visit, _BLOCK)
        before = int((self._labels[:start] == number).sum())
        return block * self.streams[number].visits + before

    @property
    def has_grown(self) -> bool:
        """True if a dataset visits more samples from some epoch on."""
        return any(len(stream.stages) > 1 for stream in self.streams)

    def began_with(self, samples: int) -> Bool[np.ndarray, " samples"]:
        """Returns for each of all samples whether an epoch 0 has it."""
        begun = np.zeros(samples, bool)
        for stream in self.streams:
            begun[stream.began_with] = True
        return begun

    def subset(self, samples: Int[np.ndarray, " k"]) -> "VisitOrder":
        """Returns the order of some of the samples, which ascend."""
        streams = []
        for stream in self.streams:
            kept = [
                stage._replace(samples=_among(samples, stream.first, stage.samples))
                for stage in stream.stages
            ]
            first = _among(samples, 0, stream.first)
            streams.append(replace(stream, first=first, stages=tuple(kept)))
        return VisitOrder(streams=tuple(streams))

    def check(self) -> None:
        """Raises UserError if no sample of a dataset is visited."""
        for number, stream in enumerate(self.streams, 1):
            if not stream.stages[0].samples:
                raise UserError(
                    f"no sample of dataset {number} of {len(self.streams)} is left to "
                    "train on; change eval_share, or leave the dataset out"
                )

    @cached_property
    def _labels(self) -> Int[np.ndarray, " block"]:
        """The dataset of each visit of a block."""
        sorted_labels = np.repeat(
            np.arange(len(self.streams)), [stream.visits for stream in self.streams]
        )
        return sorted_labels[np.arange(_BLOCK) * _STRIDE % _BLOCK]


def one_dataset(samples: int) -> VisitOrder:
    """Returns the order of visits to one dataset, which has not grown."""
    return VisitOrder(streams=(Stream(first=0, stages=(Stage(0, samples),)),))


def shares(weights: Sequence[float]) -> list[int]:
    """Returns the visits of a block to each dataset, in proportion to the weights.

    Raises:
        UserError: a weight is not above 0, or so small that it has no visit.
    """
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise UserError(f"a dataset has the weight {weight}, expected more than 0")
    total = sum(weights)
    ends = [round(_BLOCK * end / total) for end in accumulate(weights)]
    visits = [end - first for first, end in pairwise([0, *ends])]
    for weight, number in zip(weights, visits, strict=True):
        if number < 1:
            raise UserError(
                f"a dataset has the weight {weight} of {total} in all, which is less "
                f"than one visit in {_BLOCK:,}; raise it, or leave the dataset out"
            )
    return visits


def _among(samples: Int[np.ndarray, " k"], first: int, count: int) -> int:
    """Returns how many of ascending samples are among `count` from `first` on."""
    begin, end = np.searchsorted(samples, [first, first + count])
    return int(end - begin)


# An epoch of a large dataset serves thousands of windows, one after the other.
@lru_cache(maxsize=64)
def _epochs(seed: int, purpose: str) -> Callable[[int, int], np.ndarray]:
    return lru_cache(maxsize=1)(partial(permutation, seed, purpose))

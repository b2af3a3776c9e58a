"""Captions of clips, written by a captioner."""

import functools
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.view import View, segment
from soraxla.checkpoints.load import load_captioner
from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.core.errors import UserError
from soraxla.core.types import PackedBatch
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.captioner import CaptionerConfig
from soraxla.models.captioner.decode import beam_search, nucleus
from soraxla.packing.pack import PackConfig, pack
from soraxla.parallel.compiler import jit

_SHORTEST = 64  # tokens of a row
_BATCH = 8192  # tokens of the rows that are computed together
_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Writing:
    """The choice of a caption's tokens.

    Attributes:
        beams: texts that a beam search keeps; 1 takes the likeliest token.
        length_penalty: power of the length that divides a text's log-probability.
        top_p: probability of the tokens that are drawn from; None searches by beams.
        temperature: of the draws.
        seed: of the draws.
    """

    beams: int = 4
    length_penalty: float = 1.0
    top_p: float | None = None
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise UserError(f"beams is {self.beams}, expected at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}, expected above 0, at most 1")
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}, expected above 0")


class Written(NamedTuple):
    """A caption, and the mean log-probability of its tokens."""

    text: str
    score: float


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionWriter:
    """A captioner in memory."""

    loaded: LoadedModel
    writing: Writing

    @property
    def model(self) -> CaptionerConfig:
        return self.loaded.model

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of its weights."""
        return sha256_of_tree(self.loaded.params)

    def captions(self, views: Sequence[View]) -> list[Written]:
        """Returns the captions of views, which may have any sizes and lengths.

        The pixels of a view key its draws, so the other views do not change them.
        """
        found: dict[int, Written] = {}
        for members in self._groups(views):
            batch = _rows(
                [views[i] for i in members], self.model, self._length(views[members[0]])
            )
            run = _compiled(self.model, self.writing)
            tokens, scores = map(np.asarray, run(self.loaded.params, batch))
            for i, ids, score in zip(members, tokens, scores, strict=False):
                text = self.model.vocabulary.decode(ids.tolist())
                found[i] = Written(text, float(score))
        return [found[i] for i in range(len(views))]

    def _groups(self, views: Sequence[View]) -> Iterator[list[int]]:
        """Yields indices of views with one length of their rows."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, shown in enumerate(views):
            by_length[self._length(shown)].append(i)
        for length, members in by_length.items():
            rows = _row_count(length)
            for start in range(0, len(members), rows):
                yield members[start : start + rows]

    def _length(self, shown: View) -> int:
        """Returns the tokens of a row, one of few so that few programs are compiled."""
        tokens = shown.pixels[..., 0].size // self.model.view.patch**2
        length = _SHORTEST
        while length < tokens:
            length += length // 2 if length & (length - 1) == 0 else length // 3
        return length


def load_writer(folder: Path, writing: Writing | None = None) -> CaptionWriter:
    """Loads the captioner of a training folder or of a model folder.

    Raises:
        UserError: as `load_captioner`.
    """
    return CaptionWriter(loaded=load_captioner(folder), writing=writing or Writing())


def _row_count(length: int) -> int:
    return max(1, min(_ROWS, _BATCH // length))


def _rows(group: Sequence[View], model: CaptionerConfig, length: int) -> PackedBatch:
    """Returns a clip a row, and padding up to the number of rows of this length."""
    empty = np.zeros((1, 2), np.int32)
    rows = [
        [segment(shown, model.view, empty, zlib.crc32(shown.pixels.tobytes()))]
        for shown in group
    ]
    rows += [rows[-1]] * (_row_count(length) - len(rows))
    return pack(rows, PackConfig(row_length=length, text_length=1, max_segments=1))


@functools.lru_cache(maxsize=8)
def _compiled(model: CaptionerConfig, writing: Writing) -> Callable[..., Any]:
    def run(params: Any, batch: PackedBatch) -> Any:
        if writing.top_p is None:
            options = {"beams": writing.beams, "length_penalty": writing.length_penalty}
            return beam_search(params, model, batch, **options)
        return nucleus(
            params,
            model,
            batch,
            seed=writing.seed,
            top_p=writing.top_p,
            temperature=writing.temperature,
        )

    return jit(run)

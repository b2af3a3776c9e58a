"""Random latents and texts in place of a dataset, to measure the speed of training."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Int

from data_pipelines.dataset import Dataset, Record
from soraxla.core.errors import UserError
from soraxla.packing.conditioning import Stored
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule_index import ScheduleIndex

PREFIX = "synthetic:"
_CLIPS = 8  # which stay in memory; the noise of each visit differs
_MOST_STEPS = 21  # latent frames of a clip, if its tokens divide: 81 frames
_MOST_TEXT = 64  # text tokens of a caption
_PIXELS, _FPS = 8, 24.0  # of a latent's side; of a clip


@dataclass(frozen=True, kw_only=True, eq=False)
class Synthetic(Dataset):
    """Clips of one size whose latents and texts are random numbers."""

    def read(self, i: int) -> Record:
        """Returns the random tensors of clip i, the same at each call."""
        return self._tensors(int(self.record[i]))

    @cached_property
    def _tensors(self):
        sizes, card = self.sizes, self.card
        grid = int(sizes.t[0]), int(sizes.h[0]), int(sizes.w[0])
        latents = (*grid, card["latent_channels"])
        text = (int(sizes.text_length[0]), card["text_width"])

        @lru_cache(_CLIPS)
        def tensors(number: int) -> Record:
            rng = np.random.default_rng(number)
            made = [
                rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
                for shape in (latents, text)
            ]
            return Record(made[0], made[1], {}, {})

        return tensors

    def _index_rows(self, columns: list[str] | None) -> pa.Table:
        names = [f"synthetic {number}" for number in self.record]
        return pa.table({"source": names, "caption": names})


def tokens_of(place: object) -> int | None:
    """Returns TOKENS of `synthetic:TOKENS`; None for another place.

    Raises:
        UserError: TOKENS is no positive number.
    """
    text = str(place)
    if not text.startswith(PREFIX):
        return None
    tokens = text.removeprefix(PREFIX)
    if not (tokens.isascii() and tokens.isdecimal() and int(tokens)):
        raise UserError(
            f"--data {text}: expected {PREFIX}TOKENS, such as {PREFIX}1024, the tokens "
            "of a clip"
        )
    return int(tokens)


def synthetic(
    tokens: int,
    pack: PackConfig,
    *,
    channels: int,
    text_width: int,
    patch: tuple[int, int, int],
    actions: tuple[str, ...] = (),
    camera: bool = False,
) -> Synthetic:
    """Returns clips of so many tokens each, as wide as a model's latents and text.

    Captions leave room for as many clips in a row as its tokens do.

    Raises:
        UserError: a clip does not fit a row.
    """
    if tokens > pack.row_length:
        raise UserError(
            f"--data {PREFIX}{tokens}: a clip of {tokens} tokens does not fit a row of "
            f"pack.row_length = {pack.row_length}; name fewer tokens"
        )
    clips = min(pack.row_length // tokens, pack.max_segments)
    text = max(1, min(_MOST_TEXT, pack.text_length // clips))
    t, h, w = (n * p for n, p in zip(_grid(tokens), patch, strict=True))
    return Synthetic(
        path=Path(f"{PREFIX}{tokens}"),
        card={
            "format": None,
            "fingerprint": f"{PREFIX}{tokens}",
            "vae_sha256": "synthetic",
            "text_encoder": "synthetic",
            "samples": _CLIPS,
            "latent_channels": channels,
            "text_width": text_width,
            "patch": list(patch),
            "conditions": False,
            "actions": list(actions),
            "camera": camera,
        },
        sizes=ScheduleIndex(
            t=_equal(t),
            h=_equal(h),
            w=_equal(w),
            fps=np.full(_CLIPS, _FPS if t > 1 else 0.0),
            text_length=_equal(text),
            height=_equal(_PIXELS * h),
            width=_equal(_PIXELS * w),
            empty_text_length=1,
            patch=patch,
            stored=Stored(*(np.zeros(_CLIPS, np.int8) for _ in Stored._fields)),
        ),
        shard=_equal(0),
        record=np.arange(_CLIPS, dtype=np.int32),
        held_out=np.zeros(_CLIPS, bool),
        empty_text=np.zeros((1, text_width), ml_dtypes.bfloat16),
        _reader=_no_shard,
    )


def _no_shard(shard: int) -> ArrayRecordReader:
    raise AssertionError("synthetic clips are in no shard")


def _grid(tokens: int) -> tuple[int, int, int]:
    """Returns the tokens of a clip along time, height and width."""
    steps = max(n for n in range(1, _MOST_STEPS + 1) if tokens % n == 0)
    frame = tokens // steps
    height = max(n for n in range(1, math.isqrt(frame) + 1) if frame % n == 0)
    return steps, height, frame // height


def _equal(number: int) -> Int[np.ndarray, " n"]:
    return np.full(_CLIPS, number, np.int32)

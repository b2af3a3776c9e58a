"""The shards of a dataset that is prepared: boundaries, known before it is encoded.

A boundary depends on the sizes of the source's samples only, so that a file that cannot
be used leaves a gap in its shard and moves no other sample. A shard is encoded in
parts; clips of one part share batches, and an interruption loses one part at most.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tqdm import tqdm

from data_pipelines import transforms
from data_pipelines.sources.media import Extent, Sample, SizedSample, Source
from soraxla.core.errors import UserError
from soraxla.core.types import latent_frames
from soraxla.packing.conditioning import GREYED, TAILS

SHARDS = "shards.json"
SHARD_BYTES = 256 << 20  # few files for a large dataset, and a lot that is written once
_PARTS = 16  # of a shard, about
_MOST_TEXT = 512  # tokens; no encoder reads more of a caption
_TOKENS_BESIDE = 2  # special ones at the ends of a caption
_SINGLES = 3  # frames of a clip that are conditions
_PROBES, _LISTED = 16, 4096  # files that are probed, and listed, at the same time
_FIRST = 8  # samples that are tried for the size of all


# The first sample of each part of each shard, and the end of the shard.
Plan = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """The settings that the bytes of a dataset depend on, beside the source."""

    vae_sha256: str
    text_encoder: str
    max_tokens: int
    shard_bytes: int
    latent_channels: int
    vae_spatial: int
    conditions: bool
    features: dict[str, str | int] | None = None  # of `TokenFeatures`
    max_side: int | None = None  # of a frame, in pixels; None scales nothing
    fps: float | None = None  # at most; None keeps all frames

    def identity(self) -> dict[str, Any]:
        """Returns the settings that are used; a dataset keeps its identity by them."""
        return {name: value for name, value in vars(self).items() if value is not None}


def record_bytes(
    extent: Extent, settings: PrepareConfig, *, text_width: int, steering: int = 0
) -> int:
    """Returns about the bytes of a sample's records; 0 if it cannot be used.

    Texts count with a bound: every byte is a token.

    Args:
        text_width: of the text encoder.
        steering: numbers of a frame's actions and camera.
    """
    spatial = settings.vae_spatial
    try:
        box = transforms.crop_box(extent.height, extent.width, spatial)
        longest = transforms.piece_frames(box, settings.max_tokens, spatial)
    except UserError:
        return 0
    whole, rest = divmod(extent.frames, max(longest, 1))
    frames = [longest] * whole + ([rest] if rest else [])
    latents = 0.0
    for count in frames:
        t = 1 + (count - 1) // transforms.TEMPORAL
        latents += t
        if settings.conditions and t > 1:
            tails = [tail for tail in TAILS if count >= tail + transforms.TEMPORAL]
            latents += _SINGLES + sum(map(latent_frames, tails)) + GREYED * t
    area = (box.height // spatial) * (box.width // spatial)
    tokens = min(extent.text + _TOKENS_BESIDE, _MOST_TEXT)
    numbers = latents * area * settings.latent_channels
    if settings.features is not None:
        clips = sum(latent_frames(count, transforms.TEMPORAL) for count in frames)
        numbers += clips * area * int(settings.features["width"])
    numbers += len(frames) * tokens * text_width
    return 2 * round(numbers + extent.frames * steering)


def extents(samples: Source, *, shown: bool = False) -> Iterator[Extent]:
    """Yields the sizes of all samples; those of one that cannot be read are 0.

    Where a source does not know the sizes without decoding, the first sample that can
    be decoded counts for all.

    Args:
        shown: with a progress bar.
    """
    bar = tqdm(total=len(samples), unit="size", disable=not shown, leave=False)
    with bar, ThreadPoolExecutor(_PROBES, "soraxla probe") as pool:
        if len(samples) and isinstance(samples[0], SizedSample):
            for first in range(0, len(samples), _LISTED):
                listed = range(first, min(first + _LISTED, len(samples)))
                for extent in pool.map(_extent, map(samples.__getitem__, listed)):
                    bar.update()
                    yield extent
        else:
            yield from [_first_extent(samples)] * len(samples)


def _extent(sample: Sample) -> Extent:
    assert isinstance(sample, SizedSample)
    try:
        return sample.size()
    except (UserError, OSError):  # it is skipped when it is decoded
        return Extent(0, 0, 0, 0)


def _first_extent(samples: Source) -> Extent:
    for first in range(min(_FIRST, len(samples))):
        try:
            media = samples[first].open()
            shapes = [frame.shape for frame in media.frames]
            height, width, *_ = shapes[0]
            text = len(media.caption.encode())
            return Extent(height, width, len(shapes), text, media.fps)
        except (UserError, OSError, IndexError):
            continue
    return Extent(0, 0, 0, 0)


def plan(sizes: Sequence[int], shard_bytes: int) -> Plan:
    """Returns the parts of the shards that hold samples of these sizes."""
    part_bytes = max(1, shard_bytes // _PARTS)
    return [
        [first + part for part in boundaries(sizes[first:end], part_bytes)]
        for first, end in pairwise(boundaries(sizes, shard_bytes))
    ]


def boundaries(sizes: Iterable[int], most: int) -> list[int]:
    """Returns the first item of each run of items of at most `most` bytes, and the end.

    A larger item is a run by itself. At least one run is returned, which may be empty.
    """
    firsts, total, count = [0], 0, 0
    for count, size in enumerate(sizes, start=1):
        total += size
        if total > most and count - 1 > firsts[-1]:
            firsts.append(count - 1)
            total = size
    return [*firsts, count]

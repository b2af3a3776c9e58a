"""Batching of clips: rows of packed clips under each condition of guidance."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.guidance import Guidance
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.generation.condition_latents import Clip, Steering, Tokens, lay_out
from soraxla.packing.bin_packing import Visit, fewest_rows
from soraxla.packing.controls import Controls, of_tokens
from soraxla.packing.pack import PackConfig, Segment, pack, unpack
from soraxla.packing.patchify import Patch, patch_grid, unpatchify
from soraxla.parallel.mesh import current_axis_size

# Tokens of the rows that are sampled together: they fill an accelerator, and on a CPU
# short clips share the cost of a step.
_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A model's settings for tokens.

    They are `patch`, `rope_fps`, `controls` and `shift` of its configuration, and the
    pixels of a latent's side.
    """

    patch: Patch
    rope_fps: float
    controls: Controls
    shift: float | Literal["auto"]
    spatial: int


class Rows(NamedTuple):
    """Packed clips, by their keys in row order, once for each condition of guidance.

    The conditions are the prompt; with guidance, the negative prompt; and with image
    guidance, the negative prompt without condition tokens.
    """

    keys: list[int]
    batches: tuple[PackedBatch, ...]


def pack_clips(
    clips: Mapping[int, Clip],
    texts: Mapping[int, Float[np.ndarray, "_ e"]],
    negative: Float[np.ndarray, "_ e"],
    *,
    layout: Layout,
    guidance: Guidance,
    numbers: Mapping[int, int] = {},
) -> Iterator[Rows]:
    """Yields rows of about `_TOKENS_AT_ONCE` tokens.

    Clip i has text i and the visit `numbers[i]`, or i if there is none.
    """
    tokens_of = {
        i: lay_out(clip, layout.patch, layout.rope_fps) for i, clip in clips.items()
    }
    visits = [
        Visit(
            number=numbers.get(i, i),
            sample=i,
            tokens=len(tokens_of[i].condition_mask),
            text_tokens=len(texts[i]),
            latent_frames=clip.grid.t,
            caption_kept=True,
        )
        for i, clip in clips.items()
    ]
    budget = _budget(visits)
    rows = fewest_rows(visits, budget)
    at_once = max(1, _TOKENS_AT_ONCE // budget.row_length)
    for start in range(0, len(rows), at_once):
        chosen = rows[start : start + at_once]
        segments = [
            [
                _segment(
                    d, tokens_of[d.sample], clips[d.sample], texts[d.sample], layout
                )
                for d in row
            ]
            for row in chosen
        ]
        batches = [_pack(segments, budget)]
        if guidance.cfg_scale != 1 or guidance.image_scale != 1:
            batches.append(_pack(_negative(segments, negative), budget))
        if guidance.image_scale != 1:
            appended = [
                np.concatenate([tokens_of[d.sample].appended for d in row])
                for row in chosen
            ]
            batches.append(_without_conditions(batches[-1], appended))
        yield Rows([d.sample for row in chosen for d in row], tuple(batches))


def unpack_clips(
    out: Float[Array, "b l p"], rows: Rows, clips: Mapping[int, Clip], patch: Patch
) -> Iterator[tuple[int, Float[np.ndarray, "_ _ _ z"]]]:
    """Yields the latents of each clip's grid, without appended conditions."""
    found = (part for row in unpack(out, rows.batches[0].segment_ids) for part in row)
    for i, part in zip(rows.keys, found, strict=True):
        grid = clips[i].grid
        tokens = np.asarray(part)[: math.prod(patch_grid(grid, patch))]
        yield i, np.asarray(unpatchify(tokens, grid, patch))


def _budget(visits: Sequence[Visit]) -> PackConfig:
    # The devices along `context` get equal parts of a row.
    unit = 128 * current_axis_size("tokens")
    longest, total = max(d.tokens for d in visits), sum(d.tokens for d in visits)
    length = max(longest, min(1024, total))
    return PackConfig(
        row_length=unit * -(-length // unit),
        text_length=max(256, max(visit.text_tokens for visit in visits)),
        max_segments=32,
    )


def _segment(
    visit: Visit, tokens: Tokens, clip: Clip, text: np.ndarray, layout: Layout
) -> Segment:
    grid, steering = clip.grid, clip.steering or Steering()
    rows = layout.controls.rows(
        grid.t, steering.actions, steering.camera, start=steering.start
    )
    in_grid = len(tokens.appended) - int(tokens.appended.sum())
    return Segment(
        tokens=np.asarray(tokens.latents),
        condition_mask=tokens.condition_mask,
        positions=tokens.positions,
        controls=of_tokens(
            rows, own=in_grid, tokens=len(tokens.appended), step=layout.patch[0]
        ),
        text=text,
        visit=visit.number,
        shift=time_shift(
            layout.shift,
            height=grid.h * layout.spatial,
            width=grid.w * layout.spatial,
            latent_frames=grid.t,
        ),
    )


def _negative(
    rows: Sequence[Sequence[Segment]], text: np.ndarray
) -> list[list[Segment]]:
    """Returns the segments with the negative prompt, and without controls."""
    return [
        [
            dataclasses.replace(segment, text=text, controls=_none(segment))
            for segment in r
        ]
        for r in rows
    ]


def _none(segment: Segment) -> np.ndarray | None:
    return None if segment.controls is None else np.zeros_like(segment.controls)


def _pack(rows: Sequence[Sequence[Segment]], budget: PackConfig) -> PackedBatch:
    # Negative prompts may be longer than the prompts.
    longest = max(sum(len(segment.text) for segment in row) for row in rows)
    text_length = max(budget.text_length, longest)
    return pack(rows, dataclasses.replace(budget, text_length=text_length))


def _without_conditions(
    batch: PackedBatch, appended: Sequence[np.ndarray]
) -> PackedBatch:
    """Returns the batch with conditions in place as noise, appended ones as padding."""
    ids = np.array(batch.segment_ids)
    for row, beyond in zip(ids, appended, strict=True):
        row[: len(beyond)][beyond] = 0
    return batch._replace(
        segment_ids=ids, condition_mask=np.zeros_like(batch.condition_mask)
    )

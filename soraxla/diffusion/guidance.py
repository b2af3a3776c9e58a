"""Classifier-free guidance (arXiv 2207.12598) as a wrapper around the network."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from soraxla.core.errors import UserError
from soraxla.core.types import Array, PackedBatch
from soraxla.diffusion.process import token_times

# (x (b l p), t (b s)) → prediction (b l p).
Denoise = Callable[[Array, Array], Array]
# What conditions it → the network under that condition. Called once for all steps, so
# that what depends on the condition alone is computed once.
Condition = Callable[[PackedBatch], Denoise]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How far predictions are led towards their conditions.

    Of the predictions v under the prompt and what is given, w under what is given and
    the negative prompt, and n under that with nothing given, it makes

        n + image_scale·(w − n) + cfg_scale·(v − w)

    as InstructPix2Pix does (arXiv 2211.09800); n is not needed at an image scale of 1.

    Attributes:
        cfg_scale: towards the prompt; 1 is none.
        image_scale: towards what is given; 1 is none.
        interval: the times (low, high) between which there is guidance at all
            (arXiv 2404.07724).

    Raises:
        UserError: a scale that is not between 0 and 100, or no interval of 0…1.
    """

    cfg_scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("cfg_scale", "image_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 100):
                raise UserError(f"{name} is {value}, expected 0 to 100")
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise UserError(
                f"the guidance interval is {low} to {high}, expected two times, the "
                "lower first, between 0 and 1"
            )


class Unconditional(NamedTuple):
    """Rows in which nothing is given, and how they see corrupted tokens (x, t) → x."""

    batch: PackedBatch
    seen: Denoise


def guided(
    condition: Condition,
    batch: PackedBatch,
    negative: PackedBatch | None = None,
    nothing: Unconditional | None = None,
    *,
    guidance: Guidance,
) -> Denoise:
    """The guided prediction, from one forward pass over two or three times the rows.

    Where both scales are 1 this is the condition's alone, and nothing is doubled.

    Args:
        batch: the conditional rows.
        negative: the same rows with the text of the negative prompt (the empty text's
            embedding by default); its M may differ.
        nothing: `negative` without what is given, for an image scale other than 1.

    Raises:
        UserError: rows that a scale needs are missing, or rows that differ.
    """
    text, image = guidance.cfg_scale, guidance.image_scale
    if text == image == 1.0:
        return condition(batch)
    if negative is None or (nothing is None and image != 1.0):
        raise UserError(
            f"cfg_scale {text} and image_scale {image} need the rows of a negative "
            "prompt, and if image_scale is not 1 those without what is given: give "
            "them, or set both to 1"
        )
    if negative.segment_ids.shape != batch.segment_ids.shape:
        raise UserError(
            f"negative rows are {negative.segment_ids.shape}, expected "
            f"{batch.segment_ids.shape}: pack the same clips for both prompts"
        )
    third = [] if nothing is None or image == 1.0 else [nothing]
    rows = [batch, negative, *(rows.batch for rows in third)]
    denoise = condition(_stack(rows))

    def combined(x: Array, t: Array) -> Array:
        seen = [x, x, *(rows.seen(x, t) for rows in third)]
        preds = denoise(jnp.concatenate(seen), jnp.concatenate([t] * len(rows)))
        v, w, *n = jnp.split(preds, len(rows))
        out = w + text * (v - w)
        if n:
            out = out + (image - 1.0) * (w - n[0])
        if guidance.interval == (0.0, 1.0):
            return out
        low, high = guidance.interval
        t_BL1 = token_times(t, batch.segment_ids)[:, :, None]
        return jnp.where((low <= t_BL1) & (t_BL1 <= high), out, v)

    return combined


def _stack(rows: list[PackedBatch]) -> PackedBatch:
    """All rows, the shorter texts filled up with padding."""
    longest = max(batch.text.shape[1] for batch in rows)

    def fill(batch: PackedBatch) -> PackedBatch:
        missing = longest - batch.text.shape[1]
        return batch._replace(
            text=jnp.pad(batch.text, ((0, 0), (0, missing), (0, 0))),
            text_segment_ids=jnp.pad(batch.text_segment_ids, ((0, 0), (0, missing))),
        )

    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(fill, rows))

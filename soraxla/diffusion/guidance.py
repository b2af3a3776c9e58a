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
# Conditioning rows → the network under them. It is called once for all steps, so that
# quantities of the condition only are computed once.
Condition = Callable[[PackedBatch], Denoise]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The strength of classifier-free guidance towards the prompt and condition tokens.

    Of the predictions v with the prompt and condition tokens, w with the negative
    prompt and condition tokens, and n with the negative prompt and no condition tokens,
    the result is

        n + image_scale·(w − n) + cfg_scale·(v − w)

    as in InstructPix2Pix (arXiv 2211.09800); n is not needed at an image scale of 1.

    Attributes:
        cfg_scale: towards the prompt; 1 is no guidance.
        image_scale: towards the condition tokens; 1 is no guidance.
        interval: the times (low, high) between which guidance is applied (arXiv
            2404.07724).

    Raises:
        UserError: a scale is not between 0 and 100, or the interval is not in 0…1.
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
    """Rows without condition tokens, and their inputs (x, t) → x from noised ones."""

    batch: PackedBatch
    to_input: Denoise


def guided(
    condition: Condition,
    batch: PackedBatch,
    negative: PackedBatch | None = None,
    unconditional: Unconditional | None = None,
    *,
    guidance: Guidance,
) -> Denoise:
    """Returns the guided prediction, from one forward pass over two or three row sets.

    If both scales are 1, it is the conditional prediction, with one row set.

    Args:
        batch: the conditional rows.
        negative: the same rows with the text of the negative prompt (by default the
            empty text's embedding); its M may differ.
        unconditional: `negative` without condition tokens, for an image scale other
            than 1.

    Raises:
        UserError: rows that a scale needs are missing, or the rows differ.
    """
    text, image = guidance.cfg_scale, guidance.image_scale
    nothing = None if unconditional is None else unconditional.batch
    denoise = condition(guided_rows(batch, negative, nothing, guidance=guidance))
    if text == image == 1.0:
        return denoise
    third = [] if unconditional is None or image == 1.0 else [unconditional]
    sets = 2 + len(third)

    def combined(x: Array, t: Array) -> Array:
        inputs = [x, x, *(rows.to_input(x, t) for rows in third)]
        preds = denoise(jnp.concatenate(inputs), jnp.concatenate([t] * sets))
        v, w, *n = jnp.split(preds, sets)
        out = w + text * (v - w)
        if n:
            out = out + (image - 1.0) * (w - n[0])
        if guidance.interval == (0.0, 1.0):
            return out
        low, high = guidance.interval
        t_BL1 = token_times(t, batch.segment_ids)[:, :, None]
        return jnp.where((low <= t_BL1) & (t_BL1 <= high), out, v)

    return combined


def guided_rows(
    batch: PackedBatch,
    negative: PackedBatch | None = None,
    nothing: PackedBatch | None = None,
    *,
    guidance: Guidance,
) -> PackedBatch:
    """Returns the row sets that the network sees under `guided`, one after the other.

    The shorter texts are padded.

    Args:
        nothing: `negative` without condition tokens.

    Raises:
        UserError: rows that a scale needs are missing, or the rows differ.
    """
    text, image = guidance.cfg_scale, guidance.image_scale
    if text == image == 1.0:
        return batch
    if negative is None or (nothing is None and image != 1.0):
        raise UserError(
            f"cfg_scale {text} and image_scale {image} need the rows of a negative "
            "prompt, and if image_scale is not 1 those without condition tokens: "
            "pass them, or set both to 1"
        )
    if negative.segment_ids.shape != batch.segment_ids.shape:
        raise UserError(
            f"negative rows are {negative.segment_ids.shape}, expected "
            f"{batch.segment_ids.shape}: pack the same clips for both prompts"
        )
    rows = [batch, negative]
    if nothing is not None and image != 1.0:
        rows.append(nothing)
    longest = max(each.text.shape[1] for each in rows)

    def fill(each: PackedBatch) -> PackedBatch:
        missing = longest - each.text.shape[1]
        return each._replace(
            text=jnp.pad(each.text, ((0, 0), (0, missing), (0, 0))),
            text_segment_ids=jnp.pad(each.text_segment_ids, ((0, 0), (0, missing))),
        )

    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(fill, rows))

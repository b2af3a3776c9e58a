"""Layout of a visit's tokens: the clip, its condition tokens, appended conditions."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.encode_conditions import FRAME, HOLE, HOLED, TAIL
from soraxla.packing.bin_packing import Visit
from soraxla.packing.conditioning import TAILS
from soraxla.packing.patchify import Patch, lay_tokens, patchify

Tensors = Mapping  # from names to arrays; a look at an array would check its numbers

_TEMPORAL = 4  # frames per latent frame


def lay_out(
    latents: Float[np.ndarray, "t h w c"],
    conditions: Tensors,
    visit: Visit,
    *,
    patch: Patch,
    fps: float,
    rope_fps: float,
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n 3"], Bool[np.ndarray, " n"]]:
    """Returns a visit's tokens, their positions, and the mask of condition tokens.

    Appended condition latents follow the clip's tokens with their own times: frame f is
    at f/4 latents, latent i of a tail that begins with frame f at (f + 4i)/4. Times
    count from the first latent of the visit.
    """
    whole_frames = 1 + _TEMPORAL * (len(latents) - 1)
    latents = latents[visit.start : visit.start + visit.latent_frames]
    appended = _appended(conditions, visit, whole_frames)
    parts = [(latents, 0.0)]
    parts += [(z, first / _TEMPORAL - visit.start) for first, z in appended]
    tokens, positions = lay_tokens(parts, patch, fps, rope_fps)
    pt, ph, pw = patch
    frame_tokens = latents.shape[1] * latents.shape[2] // (ph * pw)
    clip_tokens = len(latents) // pt * frame_tokens
    condition_mask = np.arange(len(tokens)) >= clip_tokens
    condition_mask[: visit.prefix // pt * frame_tokens] = True
    if visit.spatial:
        outside = np.tile(conditions[HOLE].reshape(-1) == 0, len(latents) // pt)
        around = patchify(conditions[HOLED][: len(latents)], patch)
        tokens[:clip_tokens] = np.where(outside[:, None], around, tokens[:clip_tokens])
        condition_mask[:clip_tokens] |= outside
    return tokens, positions, condition_mask


def _appended(
    conditions: Tensors, visit: Visit, frames: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first frame, latents) of the conditions appended to a clip."""
    frame_numbers = sorted(
        int(name.removeprefix(FRAME)) for name in conditions if FRAME in name
    )
    for bit, frame in enumerate(frame_numbers):
        if visit.frames >> bit & 1:
            yield frame, conditions[f"{FRAME}{frame}"]
    if visit.tail:
        tail = TAILS[visit.tail - 1]
        yield frames - tail, conditions[f"{TAIL}{tail}"]

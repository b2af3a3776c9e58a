"""Tasks are data: a clip to sample, what of it is known, and where it starts.

Nothing here knows a task's name. A clip is laid out as the tokens of its grid, of which
some are known in place, and after them the known tokens of what was encoded alone, at
its true times; in place it would have seen, through the causal VAE, the frames that are
to be generated. The training data are laid out alike.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from soraxla.core.errors import UserError
from soraxla.core.types import Array, LatentGrid
from soraxla.packing.patchify import Patch, lay_tokens, patchify


@dataclass(frozen=True, kw_only=True, eq=False)
class Alone:
    """Frames of a clip that were encoded as if they were all of it.

    Attributes:
        latents: of 1 + 4k frames, k + 1 latent frames.
        place: of the first frame in the clip, in latents: frame f stands at f/4.
    """

    latents: Float[np.ndarray, "k h w z"]
    place: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Steering:
    """What steers a clip; see `Controls.rows`.

    Attributes:
        actions, camera: of 1 + 4k frames.
        start: the latent frame of theirs that the clip begins with.
    """

    actions: Float[np.ndarray, "f a"] | None = None
    camera: Float[np.ndarray, "f 4 4"] | None = None
    start: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A clip to sample, of the size of `latents`.

    Attributes:
        latents: where `known`, what is given; elsewhere, what SDEdit starts from, and
            nothing at a `strength` of 1.
        known: whole patches.
        alone: what is given beside the clip's own latents.
        fps: frames a second; a picture's may be 0.
        strength: u where sampling starts, 1 noise … 0 clean (SDEdit, arXiv 2108.01073).
        steering: actions and the camera, for models that are steered by them.
    """

    latents: Float[np.ndarray, "t h w z"]
    condition_mask: Bool[np.ndarray, "t h w"]
    fps: float
    alone: tuple[Alone, ...] = ()
    strength: float = 1.0
    steering: Steering | None = None

    @property
    def grid(self) -> LatentGrid:
        t, h, w = self.condition_mask.shape
        return LatentGrid(t=t, h=h, w=w)


def starting_with(
    first: Float[np.ndarray, "k h w z"],
    frames: int,
    fps: float,
    alone: tuple[Alone, ...] = (),
    steering: Steering | None = None,
) -> Clip:
    """A clip of so many latent frames, whose first k are known; k may be 0.

    Raises:
        UserError: more frames are known than the clip has.
    """
    k, *shape = first.shape
    if k > frames:
        raise UserError(
            f"{k} latent frames are given of a clip of {frames}: give fewer, or ask "
            "for a longer clip"
        )
    latents = np.zeros((frames, *shape), np.float32)
    latents[:k] = first
    condition_mask = np.zeros(latents.shape[:3], bool)
    condition_mask[:k] = True
    return Clip(
        latents=latents,
        condition_mask=condition_mask,
        fps=fps,
        alone=alone,
        steering=steering,
    )


class Tokens(NamedTuple):
    """A clip as a segment of a row; the grid's tokens come first."""

    latents: Float[Array, "n p"]
    condition_mask: Bool[np.ndarray, " n"]
    positions: Float[np.ndarray, "n 3"]
    alone: Bool[np.ndarray, " n"]  # beyond the grid


def lay(clip: Clip, patch: Patch, rope_fps: float) -> Tokens:
    """The tokens of a clip; what is neither known nor started from is 0.

    Raises:
        UserError: a side is no multiple of the patch, or a patch is known in part.
    """
    share = np.asarray(
        patchify(clip.condition_mask[..., None].astype(np.float32), patch)
    ).mean(1)
    if np.any((share > 0) & (share < 1)):
        raise UserError(
            f"a patch of {patch} latents (t, h, w) is known in part: give whole patches"
        )
    parts = [(clip.latents, 0.0), *((x.latents, x.place) for x in clip.alone)]
    latents, places = lay_tokens(parts, patch, clip.fps, rope_fps)
    beyond = np.arange(len(latents)) >= len(share)
    condition_mask = beyond.copy()
    condition_mask[: len(share)] = share == 1
    if clip.strength == 1:
        latents = np.where(condition_mask[:, None], latents, np.float32(0))
    return Tokens(
        latents=latents, condition_mask=condition_mask, positions=places, alone=beyond
    )


def window_ends(frames: int, window: int | None, overlap: int) -> list[int]:
    """Where windows of at most `window` latent frames end, as even as can be.

    Each after the first begins `overlap` latents before the end of the one before.

    Raises:
        UserError: windows that are no longer than their overlap.
    """
    if window is None or frames <= window:
        return [frames]
    if window <= overlap:
        raise UserError(
            f"windows of {window} latent frames cannot overlap by {overlap}: give "
            "longer windows or a shorter overlap"
        )
    count = -(-(frames - overlap) // (window - overlap))
    return [overlap + (frames - overlap) * i // count for i in range(1, count + 1)]


def window_of(
    clip: Clip, start: int, end: int, before: Float[np.ndarray, "k h w z"]
) -> Clip:
    """Latent frames start…end of a clip, of which the first k were made `before`.

    Times count from the window's own start. Of what is given alone it has what lies
    within it.
    """
    latents, condition_mask = (
        clip.latents[start:end].copy(),
        clip.condition_mask[start:end].copy(),
    )
    latents[: len(before)] = before
    condition_mask[: len(before)] = True
    steering = clip.steering
    return Clip(
        latents=latents,
        condition_mask=condition_mask,
        fps=clip.fps,
        alone=tuple(
            Alone(latents=given.latents, place=given.place - start)
            for given in clip.alone
            if start <= given.place and given.place + len(given.latents) <= end
        ),
        strength=clip.strength,
        steering=steering and replace(steering, start=steering.start + start),
    )

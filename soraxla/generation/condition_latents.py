"""Clips to sample, with their condition latents, and their layout as tokens.

Nothing here knows a task's name. The tokens of a clip's grid come first; some of them
are conditions in place. Appended conditions follow at their true times. The VAE encodes
them by themselves: in place, being causal, it would show them the frames that are to be
generated. Training lays out its clips alike.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from soraxla.core.errors import UserError
from soraxla.core.types import Array, LatentGrid
from soraxla.packing.patchify import Patch, lay_tokens, patchify


@dataclass(frozen=True, kw_only=True, eq=False)
class AppendedLatents:
    """Condition latents that were encoded by themselves.

    Attributes:
        latents: of 1 + 4k frames, k + 1 latent frames.
        place: time of the first frame in the clip, in latents: f/4 for frame f.
    """

    latents: Float[np.ndarray, "k h w z"]
    place: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Steering:
    """Actions and camera of a clip; see `Controls.rows`.

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
        latents: the conditions in place; elsewhere the clip that SDEdit starts from,
            which a `strength` of 1 does not read.
        condition_mask: True for conditions in place, in whole patches.
        appended: conditions after the clip's own latents.
        fps: frames a second; a picture's may be 0.
        strength: u where sampling starts, 1 noise … 0 clean (SDEdit, arXiv 2108.01073).
        steering: actions and the camera, for models that are steered by them.
    """

    latents: Float[np.ndarray, "t h w z"]
    condition_mask: Bool[np.ndarray, "t h w"]
    fps: float
    appended: tuple[AppendedLatents, ...] = ()
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
    appended: tuple[AppendedLatents, ...] = (),
    steering: Steering | None = None,
) -> Clip:
    """Returns a clip of so many latent frames, conditioned on its first k, 0 or more.

    Raises:
        UserError: `first` has more frames than the clip.
    """
    k, *shape = first.shape
    if k > frames:
        raise UserError(
            f"{k} condition frames do not fit a clip of {frames} latent frames: give "
            "fewer, or ask for a longer clip"
        )
    latents = np.zeros((frames, *shape), np.float32)
    latents[:k] = first
    condition_mask = np.zeros(latents.shape[:3], bool)
    condition_mask[:k] = True
    return Clip(
        latents=latents,
        condition_mask=condition_mask,
        fps=fps,
        appended=appended,
        steering=steering,
    )


class Tokens(NamedTuple):
    """A clip as a segment of a row; the grid's tokens come first."""

    latents: Float[Array, "n p"]
    condition_mask: Bool[np.ndarray, " n"]
    positions: Float[np.ndarray, "n 3"]
    appended: Bool[np.ndarray, " n"]  # after the grid's tokens


def lay_out(clip: Clip, patch: Patch, rope_fps: float) -> Tokens:
    """Returns the tokens of a clip; tokens without a condition or a start are 0.

    Raises:
        UserError: a side is no multiple of the patch, or a condition covers a patch in
            part.
    """
    share = np.asarray(
        patchify(clip.condition_mask[..., None].astype(np.float32), patch)
    ).mean(1)
    if np.any((share > 0) & (share < 1)):
        raise UserError(
            f"a patch of {patch} latents (t, h, w) is a condition in part: give whole "
            "patches"
        )
    parts = [(clip.latents, 0.0), *((x.latents, x.place) for x in clip.appended)]
    latents, places = lay_tokens(parts, patch, clip.fps, rope_fps)
    beyond = np.arange(len(latents)) >= len(share)
    condition_mask = beyond.copy()
    condition_mask[: len(share)] = share == 1
    if clip.strength == 1:
        latents = np.where(condition_mask[:, None], latents, np.float32(0))
    return Tokens(
        latents=latents,
        condition_mask=condition_mask,
        positions=places,
        appended=beyond,
    )


def window_ends(frames: int, window: int | None, overlap: int) -> list[int]:
    """Returns the ends of even windows of at most `window` latent frames.

    Each window after the first begins `overlap` latents before the end of the last one.

    Raises:
        UserError: windows are no longer than their overlap.
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
    """Returns latent frames start…end of a clip, conditioned on the k frames `before`.

    Times count from the window's start. A window has the appended conditions that fall
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
        appended=tuple(
            AppendedLatents(latents=part.latents, place=part.place - start)
            for part in clip.appended
            if start <= part.place and part.place + len(part.latents) <= end
        ),
        strength=clip.strength,
        steering=steering and replace(steering, start=steering.start + start),
    )

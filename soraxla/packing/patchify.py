"""Latents ↔ spacetime patches, and the position of each patch in time and space.

Patches are the tokens of Sora (OpenAI, "Video generation models as world
simulators", 2024) and of ViT (arXiv 2010.11929). Tokens run time-major: t, then
h, then w. A token's features are in (pt, ph, pw, c) order, c fastest, on the way
in and on the way out.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from einops import rearrange
from jaxtyping import Float

from soraxla.core.errors import UserError
from soraxla.core.types import Array, LatentGrid

Patch = tuple[int, int, int]


def patch_grid(grid: LatentGrid, patch: Patch) -> Patch:
    """Returns patches along time, height and width; their product counts the tokens.

    Raises UserError when a side of `grid` (in latents) is not a multiple of the
    patch.
    """
    sides = (grid.t, grid.h, grid.w)
    if min(sides) < 1 or any(side % p for side, p in zip(sides, patch, strict=True)):
        raise UserError(
            f"a latent grid of {sides} (t, h, w) cannot be cut into patches of {patch}:"
            " crop each side to a positive multiple of the patch"
        )
    return grid.t // patch[0], grid.h // patch[1], grid.w // patch[2]


def patchify(
    latents: Float[Array, "*batch t h w c"], patch: Patch
) -> Float[Array, "*batch n p"]:
    """Cuts latents into N tokens of P = pt·ph·pw·c features; NumPy or JAX.

    Raises UserError when a side is not a multiple of the patch.
    """
    t, h, w, _ = latents.shape[-4:]
    patch_grid(LatentGrid(t=t, h=h, w=w), patch)
    pt, ph, pw = patch
    tokens = rearrange(
        latents,
        "... (t pt) (h ph) (w pw) c -> ... (t h w) (pt ph pw c)",
        pt=pt,
        ph=ph,
        pw=pw,
    )
    return cast(Array, tokens)


def unpatchify(
    tokens: Float[Array, "*batch n p"], grid: LatentGrid, patch: Patch
) -> Float[Array, "*batch t h w c"]:
    """Returns the latents of tokens: the inverse of `patchify`. `grid` is in latents.

    Raises UserError when the tokens do not make up the grid.
    """
    t, h, w = patch_grid(grid, patch)
    pt, ph, pw = patch
    count, features = tokens.shape[-2:]
    if count != t * h * w or features % (pt * ph * pw):
        raise UserError(
            f"{count} tokens of {features} features do not make up {grid}: expected"
            f" {t * h * w} tokens of a multiple of {pt * ph * pw} features"
        )
    latents = rearrange(
        tokens,
        "... (t h w) (pt ph pw c) -> ... (t pt) (h ph) (w pw) c",
        t=t,
        h=h,
        pt=pt,
        ph=ph,
        pw=pw,
    )
    return cast(Array, latents)


def positions(
    grid: LatentGrid,
    patch: Patch,
    fps: float,
    rope_fps: float = 16.0,
    *,
    first: float = 0.0,
) -> Float[np.ndarray, "n 3"]:
    """Returns the position (t, h, w) of every token, in the order of `patchify`.

    t counts latents of a clip at `rope_fps` frames a second, so that a second is as
    long in a 60 fps clip as in a 12 fps one: latent τ is at τ·rope_fps/fps, or at
    (first + τ)·rope_fps/fps where the grid is a later part of a clip, such as an
    appended frame f, at f/4. A picture is at 0, and has no rate (fps 0). h and w are
    patch indices.

    Raises UserError for several latents, or a later part, without a positive rate.
    """
    t, h, w = patch_grid(grid, patch)
    moves = grid.t > 1 or first > 0
    if moves and not (fps > 0 and rope_fps > 0):
        raise UserError(
            f"a clip of {grid.t} latent frames needs a positive frame rate, got"
            f" fps={fps} and rope_fps={rope_fps}"
        )
    scale = rope_fps / fps if moves else 0.0
    place = np.indices((t, h, w), dtype=np.float64).reshape(3, -1).T
    place = place * np.array([patch[0], 1.0, 1.0]) + np.array([first, 0.0, 0.0])
    return (place * np.array([scale, 1.0, 1.0])).astype(np.float32)


def lay_tokens(
    parts: Sequence[tuple[Float[np.ndarray, "_ _ _ c"], float]],
    patch: Patch,
    fps: float,
    rope_fps: float,
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n 3"]]:
    """Returns tokens and positions of the parts of a clip, one after the other.

    A part is (latents (t, h, w, c), time of the first one in latents). The clip itself
    is the part at 0; appended conditions follow.
    """
    tokens, places = [], []
    for latents, first in parts:
        t, h, w, _ = latents.shape
        grid = LatentGrid(t=t, h=h, w=w)
        tokens.append(np.asarray(patchify(latents, patch)))
        places.append(positions(grid, patch, fps, rope_fps, first=first))
    return np.concatenate(tokens), np.concatenate(places)

"""Tasks: what of a clip is given, as pixels, as known latents and in what comes out.

A task is known latents and a mask of where they stand; the sampler has no branches.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from soraxla.patching import Patch, patchify
from soraxla.types import LatentGrid

FADE = 4  # generated frames that lead from what is given to what is decoded


def cover(
    picture: UInt8[np.ndarray, "_ _ 3"], width: int, height: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """The centre of the picture in the wanted aspect, scaled to the wanted size.

    A picture of that size comes back as it is.
    """
    rows, columns = picture.shape[:2]
    scale = min(rows / height, columns / width)  # pixels given for one wanted
    cut_rows, cut_columns = (max(1, round(side * scale)) for side in (height, width))
    top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
    cut = picture[top : top + cut_rows, left : left + cut_columns]
    if cut.shape[:2] == (height, width):
        return cut
    scaled = Image.fromarray(cut).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(scaled)


def starting_with(
    first: Float[np.ndarray, "k h w z"], grid: LatentGrid, patch: Patch
) -> tuple[Float[np.ndarray, "n p"], Bool[np.ndarray, " n"]]:
    """A clip whose first k latent frames are known, as tokens and their mask.

    What is not known is 0; k = 0 is a clip that is generated whole.

    Raises:
        ValueError: the latents do not fill the grid's frames, or end within a patch.
    """
    k, *sides, channels = first.shape
    if sides != [grid.h, grid.w] or k > grid.t or k % patch[0]:
        raise ValueError(
            f"known latents of {first.shape[:3]} (t, h, w) do not begin {grid} in "
            f"patches of {patch}: give whole latent frames and whole patches"
        )
    clip = np.zeros((grid.t, grid.h, grid.w, channels), np.float32)
    clip[:k] = first
    tokens = np.asarray(patchify(clip, patch))
    return tokens, np.arange(len(tokens)) < len(tokens) * k // grid.t


def with_first_frame(
    video: UInt8[np.ndarray, "t h w 3"], given: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """The video with its first frame as it was given, not as the VAE gives it back.

    The difference between the two is taken along and fades over the next `FADE`
    frames, so that no join is seen.
    """
    difference = given.astype(np.float32) - video[0]
    out = video.copy()
    for k, frame in enumerate(video[: FADE + 1]):
        faded = frame + (1.0 - k / (FADE + 1)) * difference
        out[k] = np.round(faded).clip(0, 255).astype(np.uint8)
    return out

"""The mix of sizes that packing is measured on, as the index of a schedule."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Int

from soraxla.packing.schedule_index import ScheduleIndex

FILE = Path(__file__).with_name("sizes.json")
_VAE = 8  # pixels to a latent
_GROUP = 4  # frames to a latent, after the first


def published_sizes(samples: int = 8192, *, shrink: int = 1) -> ScheduleIndex:
    """Returns `samples` samples of `sizes.json` in their shares, in a fixed order.

    `shrink` divides every side: 4 makes rows of 1,024 tokens of rows of 16,384, and
    divides all sides of the file into whole patches.
    """
    mix = json.loads(FILE.read_text(encoding="utf-8"))
    cells, weights = [], []
    for group in mix["groups"]:
        sizes, frames = group["sizes"], group["frames"]
        total = sum(s[-1] for s in sizes) * sum(f[-1] for f in frames)
        for width, height, weight in sizes:
            for length, weight_of_length in frames:
                cells.append((width // shrink, height // shrink, length))
                weights.append(group["share"] * weight * weight_of_length / total)
    captions = [n for n, weight in mix["caption_tokens"] for _ in range(weight)]
    # Sample i takes the cell at (i + ½)/N of the cumulated weights, so that no cell is
    # more than one sample off its share.
    places = (np.arange(samples) + 0.5) / samples
    chosen = np.searchsorted(np.cumsum(weights) / np.sum(weights), places)
    order = np.random.Generator(np.random.Philox(0)).random(samples).argsort()
    width, height, frames = np.array(cells)[chosen[order]].T
    return ScheduleIndex(
        t=1 + (frames - 1) // _GROUP,
        h=height // _VAE,
        w=width // _VAE,
        fps=np.where(frames > 1, float(mix["fps"]), 0.0),
        text_length=np.resize(captions, samples),
        height=height,
        width=width,
        empty_text_length=1,
    )


def tokens_of(index: ScheduleIndex) -> Int[np.ndarray, " n"]:
    """Returns the tokens of each sample, uncut."""
    pt, ph, pw = index.patch
    return (index.t // pt) * (index.h // ph) * (index.w // pw)

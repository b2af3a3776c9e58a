"""The stage `caption`: a text for every kept clip, by a callable.

This package has no captioner: `Caption` is passed in, and without one the columns stay
absent.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.curate.stage import Stage

STAGE = Stage(
    name="caption", summary="describes each clip, if a captioner is passed in"
)


class Captioner(NamedTuple):
    """A callable from RGB uint8 samples (n, h, w, 3) to a caption, and its name."""

    name: str
    describe: Callable[[np.ndarray], str]


def caption(
    pictures: Sequence[np.ndarray], captioner: Captioner | None
) -> dict[str, str | None]:
    """Returns the columns `caption` and `caption_model`; None without a captioner."""
    if captioner is None or not pictures:
        return {"caption": None, "caption_model": None}
    text = " ".join(captioner.describe(np.stack(pictures)).split())
    return {"caption": text, "caption_model": captioner.name}

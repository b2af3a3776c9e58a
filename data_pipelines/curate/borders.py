"""The stage `borders`: black bars that stay for the whole clip, and the crop."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.curate.stage import Limit, Sampled, Scores, Stage
from data_pipelines.transforms import Box


@dataclass(frozen=True, kw_only=True)
class BordersConfig:
    """Parameters of the search for bars."""

    black: float = 24.0  # level, 0 to 255, that no row of a bar exceeds
    narrowest: float = 0.015  # share of the side; a narrower bar is the camera's edge
    margin: int = 2  # pixels cropped beside a bar, where codecs blur its edge
    least: float = 0.3  # share of the frame that a crop leaves; else it is a dark clip


STAGE = Stage(
    name="borders",
    summary="finds letterbox and pillarbox bars and crops them",
    scores={"share": "share of the frame that the crop leaves"},
    limits={"share": Limit(min=0.4)},
    parameters=BordersConfig(),
)


def levels(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a bright level of each row and each column of an RGB frame."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    square = grey.astype(np.float32) ** 2

    def level(axis: int, length: int) -> np.ndarray:
        mean = cv2.reduce(grey, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).reshape(-1)
        power = cv2.reduce(square, axis, cv2.REDUCE_AVG).reshape(-1)
        return mean + 2 * np.sqrt(np.maximum(power - mean**2, 0))

    return level(1, width), level(0, height)


def crop(
    samples: Sequence[Sampled], height: int, width: int, cfg: BordersConfig
) -> Box:
    """Returns the rectangle inside the bars of all samples, or the whole frame."""
    whole = Box(top=0, left=0, height=height, width=width)
    if not samples:
        return whole
    top, bottom = _bars(np.max([s.rows for s in samples], axis=0), cfg)
    left, right = _bars(np.max([s.columns for s in samples], axis=0), cfg)
    box = Box(
        top=top, left=left, height=height - top - bottom, width=width - left - right
    )
    return box if share(box, height, width) >= cfg.least else whole


def share(box: Box, height: int, width: int) -> float:
    """Returns the share of the frame inside a box."""
    return max(box.height, 0) * max(box.width, 0) / (height * width)


def scores(box: Box, height: int, width: int) -> Scores:
    """Returns the scores of a crop."""
    return {"share": share(box, height, width)}


def cropped(picture: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """Returns the part of a smaller picture that a box of the whole frame covers."""
    y, x = picture.shape[0] / height, picture.shape[1] / width
    top, left = int(np.ceil(box.top * y)), int(np.ceil(box.left * x))
    bottom = max(top + 1, int((box.top + box.height) * y))
    right = max(left + 1, int((box.left + box.width) * x))
    return np.ascontiguousarray(picture[top:bottom, left:right])


def _bars(level: np.ndarray, cfg: BordersConfig) -> tuple[int, int]:
    """Returns the widths of the bars at the beginning and the end of a side."""
    bright = np.flatnonzero(level > cfg.black)
    if not len(bright):
        return 0, 0
    bars = int(bright[0]), len(level) - 1 - int(bright[-1])
    wide = [bar >= max(2, cfg.narrowest * len(level)) for bar in bars]
    return (
        bars[0] + cfg.margin if wide[0] else 0,
        bars[1] + cfg.margin if wide[1] else 0,
    )

"""The stage `text`: overlaid text and logos that stay while the picture moves."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.curate.stage import Limit, Scores, Stage


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Parameters of the search for text."""

    edge: float = 60.0  # step of luma, 0 to 255, of a letter's edge
    steady: float = 14.0  # largest change of luma of an overlay between samples
    lowest: float = 0.02  # height of a line of text, share of the picture's height
    highest: float = 0.2
    letter: float = 0.1  # widest gap between strokes of a line, likewise
    corner: float = 0.25  # share of a side that a corner has


STAGE = Stage(
    name="text",
    summary="finds overlaid text, and logos in the corners",
    scores={
        "share": "share of the picture in boxes of overlaid text",
        "logo": "share of steady edges in a corner, beyond that of the picture",
    },
    limits={"share": Limit(max=0.015), "logo": Limit(max=0.06)},
    parameters=TextConfig(),
)


def scores(pictures: Sequence[np.ndarray], cfg: TextConfig) -> Scores:
    """Returns the scores of RGB pictures of one size; absent without any.

    A logo differs from the picture only over time: three samples are needed.
    """
    if not pictures:
        return dict.fromkeys(STAGE.scores)
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    edges = [_edges(grey) > cfg.edge for grey in greys]
    steady = [
        edges[i] & edges[i + 1] & (cv2.absdiff(greys[i], greys[i + 1]) < cfg.steady)
        for i in range(len(greys) - 1)
    ] or edges
    shares = [boxes_share(mask, cfg) for mask in steady]
    logo = corner_logo(np.stack(edges), cfg) if len(edges) > 2 else None
    return {"share": float(np.mean(shares)), "logo": logo}


def _edges(grey: np.ndarray) -> np.ndarray:
    x = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3)
    y = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3)
    return cv2.magnitude(x, y) / 4


def boxes_share(mask: np.ndarray, cfg: TextConfig) -> float:
    """Returns the share of a picture in boxes that look like lines of text.

    A line is a dense, wide group of edges (h, w) bool: edges in at least a quarter of
    its box, and many changes between edge and none along it.
    """
    height, width = mask.shape
    reach = max(3, round(height * cfg.letter))
    kernel = np.ones((max(1, reach // 6), reach), np.uint8)
    groups = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    count, _, stats, _ = cv2.connectedComponentsWithStats(groups, connectivity=4)
    area = 0
    for left, top, wide, high, filled in stats[1:count]:
        if not cfg.lowest * height <= high <= cfg.highest * height:
            continue
        if wide < 2.5 * high or filled < 0.45 * wide * high:
            continue
        box = mask[top : top + high, left : left + wide]
        changes = np.abs(np.diff(box.astype(np.int8), axis=1)).sum(1)
        strokes = np.median(changes) / (wide / high)  # per letter or so
        if box.mean() > 0.2 and strokes >= 1.5:
            area += int(wide) * int(high)
    return area / (height * width)


def corner_logo(edges: np.ndarray, cfg: TextConfig) -> float:
    """Returns the largest share of steady edges of a corner beyond the picture's.

    The edges are (t, h, w) bool. Where everything rests, no corner is beyond the rest.
    """
    always = edges.mean(0) > 0.9
    height, width = always.shape
    h, w = max(1, int(height * cfg.corner)), max(1, int(width * cfg.corner))
    corners = [always[:h, :w], always[:h, -w:], always[-h:, :w], always[-h:, -w:]]
    middle = always[h : height - h, w : width - w]
    rest = float(middle.mean()) if middle.size else 0.0
    return max(float(corner.mean()) for corner in corners) - rest

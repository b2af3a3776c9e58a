"""HTML pages in one file: their frame, and videos inside them."""

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from soraxla.media.write import write_video

HEIGHT = 160  # of a clip, in pixels of the page
_GAP = 2  # pixels between clips
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em;
  padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; } th { font-weight: 600; }
td, th { padding: .2em .8em .2em 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.clip { display: flex; gap: 1.2em; align-items: center; margin: .9em 0; }
.clip p { margin: 0; width: 17em; } figcaption, small { color: #666; }
.clips { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; }
img { image-rendering: pixelated; } svg text { font: 11px sans-serif; fill: #666; }
"""


def document(title: str, body: str) -> str:
    """Returns the whole page with its title; `body` is HTML."""
    title = html.escape(title)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>{body}"
    )


def side_by_side(
    clips: Sequence[UInt8[np.ndarray, "t h w 3"]],
) -> UInt8[np.ndarray, "t h w2 3"]:
    """Returns clips of one shape as one, with gaps between them."""
    gap = np.full((*clips[0].shape[:2], _GAP, 3), 255, np.uint8)
    return np.concatenate([x for clip in clips for x in (gap, clip)][1:], axis=2)


def film(clips: Sequence[UInt8[np.ndarray, "t h w 3"]], fps: float) -> str:
    """Returns an image element that plays clips of one shape side by side."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.webp"
        write_video(path, side_by_side(clips), fps)
        data = base64.b64encode(path.read_bytes()).decode()
    return f'<img height="{HEIGHT}" alt="" src="data:image/webp;base64,{data}">'

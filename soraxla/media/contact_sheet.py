"""Contact sheets: rows of clips side by side, with a caption over each row."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_GAP = 6
_CELL_GAP = 14
_INK = (235, 235, 235)
_PAPER = (24, 24, 26)


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A caption and its clips, (T, H, W, 3) of any sizes; None leaves a gap."""

    caption: str
    clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"] | None]


def contact_sheet(
    rows: Sequence[SheetRow],
    *,
    titles: Sequence[str] = (),
    frames: int = 3,
    height: int = 112,
) -> Image.Image:
    """Draws one picture of all rows: `frames` evenly spaced frames of every clip.

    Clips are `height` pixels tall; `titles` are the headings of the columns.
    """
    strips = [[_strip(clip, frames, height) for clip in row.clips] for row in rows]
    columns = max(len(row) for row in strips)
    widths = [
        max([s.width for r in strips for s in r[c : c + 1] if s] + [height])
        for c in range(columns)
    ]
    font = ImageFont.load_default(13)
    total = sum(widths) + _CELL_GAP * (columns + 1)
    captions = [
        textwrap.wrap(row.caption, max(24, total // 7))[:2] or [""] for row in rows
    ]
    heights = [height + 17 * len(lines) + 2 * _GAP for lines in captions]
    top = 24 if titles else _GAP
    sheet = Image.new("RGB", (total, top + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [_CELL_GAP + sum(widths[:c]) + _CELL_GAP * c for c in range(columns)]
    for left, title in zip(lefts, titles, strict=False):
        draw.text((left, 4), title, _INK, font)
    for row, lines, row_height in zip(strips, captions, heights, strict=True):
        for i, line in enumerate(lines):
            draw.text((_CELL_GAP, top + 17 * i), line, _INK, font)
        for left, strip in zip(lefts, row, strict=False):
            if strip is not None:
                sheet.paste(strip, (left, top + 17 * len(lines) + 2))
        top += row_height
    return sheet


def _strip(clip: np.ndarray | None, frames: int, height: int) -> Image.Image | None:
    if clip is None:
        return None
    count = min(frames, len(clip))
    chosen = [clip[i] for i in np.linspace(0, len(clip) - 1, count).round().astype(int)]
    width = max(1, round(chosen[0].shape[1] * height / chosen[0].shape[0]))
    strip = Image.new("RGB", (count * width + _GAP * (count - 1), height), _PAPER)
    for i, frame in enumerate(chosen):
        picture = Image.fromarray(frame).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        strip.paste(picture, (i * (width + _GAP), 0))
    return strip

"""Charts of lines with intervals, as SVG that needs no other file."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INKS = ("#c0392b", "#2471a3", "#1e8449", "#7d3c98", "#b9770e", "#34495e")
_WIDTH, _HEIGHT = 460.0, 300.0  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 96.0, 14.0, 42.0  # margins


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points that a line joins, with their intervals.

    Attributes:
        low, high: the ends of the intervals; None draws none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def chart(lines: Sequence[Line], *, x: str, y: str) -> str:
    """Returns a chart with logarithmic axes, of positive numbers.

    Args:
        x: the label of the x axis.
        y: that of the y axis.
    """
    across = _Axis.of([v for line in lines for v in line.x], _LEFT, _WIDTH - _RIGHT)
    ends = [
        v
        for line in lines
        for part in (line.y, line.low, line.high)
        for v in part or ()
    ]
    up = _Axis.of(ends, _HEIGHT - _BOTTOM, _TOP)
    marks = [
        *(_tick(across.at(v), None, v) for v in across.ticks()),
        *(_tick(None, up.at(v), v) for v in up.ticks()),
        _text(across.at(across.middle), _HEIGHT - 6, x, "middle"),
        f'<text transform="translate(12 {up.at(up.middle):.1f}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y)}</text>',
    ]
    for i, line in enumerate(lines):
        marks += _drawn(line, INKS[i % len(INKS)], across, up)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="11" '
        f'fill="#555"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(marks)}</svg>"
    )


@dataclass(frozen=True)
class _Axis:
    """A logarithmic scale from the ends of the data to two ends in pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> "_Axis":
        low, high = min(values), max(values)
        room = max((high / low) ** 0.05, 1.01)
        return cls(low / room, high * room, start, end)

    @property
    def middle(self) -> float:
        return (self.low * self.high) ** 0.5

    def at(self, value: float) -> float:
        share = np.log(value / self.low) / np.log(self.high / self.low)
        return float(self.start + share * (self.end - self.start))

    def ticks(self) -> list[float]:
        """Returns three to seven round numbers of the range."""
        decades = range(
            int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1
        )
        for parts in ((1,), (1, 3), (1, 2, 5)):
            found = [p * 10.0**d for d in decades for p in parts]
            found = [v for v in found if self.low <= v <= self.high]
            if len(found) >= 3:
                return found[:: -(-len(found) // 7)]
        step = 10.0 ** np.floor(np.log10((self.high - self.low) / 3))
        for size in (5 * step, 2 * step, step):
            found = np.arange(np.ceil(self.low / size), self.high / size + 1e-9) * size
            if len(found) >= 3:
                return found[:: -(-len(found) // 7)].tolist()
        return [self.low, self.high]


def _drawn(line: Line, ink: str, across: _Axis, up: _Axis) -> list[str]:
    places = [(across.at(a), up.at(b)) for a, b in zip(line.x, line.y, strict=True)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    marks = [f'<polyline points="{path}" fill="none" stroke="{ink}"/>']
    marks += [
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{ink}"/>' for a, b in places
    ]
    if line.low is not None and line.high is not None:
        for a, low, high in zip(line.x, line.low, line.high, strict=True):
            marks.append(
                f'<line x1="{across.at(a):.1f}" x2="{across.at(a):.1f}" '
                f'y1="{up.at(low):.1f}" y2="{up.at(high):.1f}" stroke="{ink}"/>'
            )
    a, b = places[-1]
    return [*marks, _text(a + 7, b + 4, line.name, "start", ink)]


def _tick(a: float | None, b: float | None, value: float) -> str:
    label = f"{value:.3g}"
    if b is None and a is not None:
        line = f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
        return f'{line} stroke="#eee"/>' + _text(a, _HEIGHT - 26, label, "middle")
    assert b is not None
    line = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{b:.1f}" y2="{b:.1f}"'
    return f'{line} stroke="#eee"/>' + _text(_LEFT - 6, b + 4, label, "end")


def _text(a: float, b: float, text: str, anchor: str, ink: str = "#555") -> str:
    return (
        f'<text x="{a:.1f}" y="{b:.1f}" text-anchor="{anchor}" fill="{ink}">'
        f"{html.escape(text)}</text>"
    )

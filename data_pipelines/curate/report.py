"""The report of a curation, `report.html`: one page without other files."""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.curate.film import Row
from data_pipelines.curate.stage import Limit
from data_pipelines.curate.stages import SCORES, STAGES, Thresholds
from soraxla.files.atomic_file import atomic_file

_WIDE, _HIGH, _BINS, _SHOWN = 420, 90, 40, 12  # pixels, bars, clips in a sheet
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 960px; margin: 2em auto;
       padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left }
td.n { text-align: right } tr:nth-child(even) { background: #f4f4f4 }
.sheet { display: flex; flex-wrap: wrap; gap: 6px; margin: .4em 0 1em }
figure { margin: 0; width: 150px; font-size: 11px; overflow-wrap: anywhere }
img { width: 150px; display: block } svg { background: #f4f4f4; display: block }
"""


def write_report(path: Path, rows: Sequence[Row], thresholds: Thresholds) -> None:
    """Writes the page atomically: counts, histograms with limits, and pictures."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>Curation</title><style>{_STYLE}</style><h1>Curation</h1>",
        _counts(rows),
    ]
    for stage in STAGES.values():
        limits = thresholds.get(stage.name, {})
        charts = [
            _chart(stage.name, name, rows, limits.get(name, Limit()))
            for group, name in SCORES
            if group == stage.name
        ]
        if any(charts):
            title = f"<h2>{stage.name}</h2><p>{_text(stage.summary)}</p>"
            sheets = _sheets(stage.name, rows, limits)
            parts += [title, *charts, *sheets]
    parts.append("</html>\n")
    with atomic_file(path) as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")


def _text(words: object) -> str:
    return html.escape(str(words))


def _counts(rows: Sequence[Row]) -> str:
    kept = [row for row in rows if row["kept"]]
    hours = sum(row["frames"] / row["fps"] for row in kept if row["fps"]) / 3600
    films = len({row["source"] for row in rows})
    lines = Counter(row["dropped_by"] for row in rows if not row["kept"])
    cells = "".join(
        f"<tr><td>{stage}<td class=n>{lines[stage]}<td class=n>"
        f"{100 * lines[stage] / max(len(rows), 1):.1f} %"
        for stage in STAGES
        if lines[stage]
    )
    return (
        f"<p>{len(kept)} of {len(rows)} clips of {films} files are kept, "
        f"{hours:.2f} hours.</p><table><tr><th>dropped by<th>clips<th>share{cells}"
        "</table>"
    )


def _chart(stage: str, name: str, rows: Sequence[Row], limit: Limit) -> str:
    """Returns a histogram of a score with its limits as lines, or "" without scores."""
    found = [row.get(f"score.{stage}.{name}") for row in rows]
    values = np.sort([value for value in found if value is not None])
    if not len(values):
        return ""
    ends = [bound for bound in limit if bound is not None]
    low, high = min(values[0], *ends, values[0]), max(values[-1], *ends, values[-1])
    # An outlier, or a far limit, would leave one bar.
    if len(values) >= 20:
        low = max(low, min([np.percentile(values, 1) - 1e-9, *ends]))
        high = min(high, max([np.percentile(values, 99) + 1e-9, *ends]))
    span = (high - low) or 1.0
    counts, _ = np.histogram(values, _BINS, (low, low + span))
    scale, step = (_HIGH - 10) / max(counts.max(), 1), _WIDE / _BINS
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{_HIGH - n * scale:.1f}" width="{step - 1:.1f}" '
        f'height="{n * scale:.1f}" fill="#4a78a8"/>'
        for i, n in enumerate(counts)
        if n
    )
    lines, words = "", [STAGES[stage].scores[name], f"{low:.4g} to {low + span:.4g}"]
    for side, bound in limit._asdict().items():
        if bound is None:
            continue
        x = _WIDE * (bound - low) / span
        lines += f'<line x1="{x:.1f}" x2="{x:.1f}" y2="{_HIGH}" stroke="#c33"/>'
        below = 100 * np.searchsorted(values, bound) / len(values)
        words.append(f"{side} {bound:.4g} is percentile {below:.1f} of these clips")
    missing = len(found) - len(values)
    words += [f"absent for {missing} clips"] if missing else []
    return (
        f"<h3>{name}</h3><p>{_text('; '.join(words))}</p>"
        f'<svg width="{_WIDE}" height="{_HIGH}">{bars}{lines}</svg>'
    )


def _sheets(stage: str, rows: Sequence[Row], limits: dict[str, Limit]) -> list[str]:
    """Returns sheets of clips that a stage dropped, and nearly dropped, and kept."""
    shown = [row for row in rows if row.get("thumb")]
    near = sorted(
        (margin, i)
        for i, row in enumerate(shown)
        if row["kept"] and (margin := _margin(stage, row, limits)) is not None
    )
    clear = [shown[i] for _, i in near[::-1][:_SHOWN]]
    sheets = {
        "dropped": [row for row in shown if row["dropped_by"] == stage][:_SHOWN],
        "borderline": [shown[i] for _, i in near[:_SHOWN]],
        "kept": clear,
    }
    return [_sheet(title, few) for title, few in sheets.items() if few]


def _margin(stage: str, row: Row, limits: dict[str, Limit]) -> float | None:
    """Returns how far a clip is from the nearest limit, as a share of that limit."""
    margins = []
    for name, limit in limits.items():
        value = row.get(f"score.{stage}.{name}")
        for bound in limit:
            if value is not None and bound is not None:
                margins.append(abs(value - bound) / (abs(bound) or 1.0))
    return min(margins, default=None)


def _sheet(title: str, rows: Sequence[Row]) -> str:
    cells = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{row["thumb"]}">'
        f"{_text(row['source'])} {row['start_s']:.1f} s"
        f"{'<br>' + _text(row['reason']) if row['reason'] else ''}</figure>"
        for row in rows
    )
    return f"<h4>{title}</h4><div class=sheet>{cells}</div>"

"""A page of an evaluation: a table with intervals, and its worst and best clips."""

import base64
import html
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from soraxla.evals.clip_sets import ClipSet, open_set
from soraxla.evals.evaluation import Evaluation
from soraxla.evals.metrics.metric import Metric
from soraxla.media.read import probe
from soraxla.media.write import write_video

_SHOWN = 4  # clips at each end of a metric
_HEIGHT = 160  # of a clip, in pixels of the page
_GAP = 2  # pixels between a clip and its reference
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em;
  padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; } th { font-weight: 600; }
td, th { padding: .2em .8em .2em 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.clips { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; }
figcaption, small { color: #666; } img { image-rendering: pixelated; }
"""


def page(title: str, evaluation: Evaluation) -> str:
    """Returns the whole page, which needs no other file."""
    better = {name: metric.better for name, metric in evaluation.metrics.items()}
    opened = {
        kind: open_set(Path(found["folder"])) for kind, found in evaluation.sets.items()
    }
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in evaluation.notes)
    sets = "; ".join(
        f"{kind}: {found['n']} clips of {found['folder']}"
        for kind, found in evaluation.sets.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(sets)}.</p>"
        f"{table(evaluation.values, better)}{notes}"
        + "".join(_ends(name, evaluation, opened) for name in evaluation.metrics)
    )


def table(values: Mapping[str, Metric], better: Mapping[str, str | None]) -> str:
    """Returns the table of metrics and their intervals, as HTML."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value.value:.4g}</td>"
        f"<td>{value.low:.4g} … {value.high:.4g}</td><td>{value.n}</td>"
        f"<td>{better[name] or ''}</td></tr>"
        for name, value in values.items()
    )
    return (
        "<table><tr><th></th><th>value</th><th>95 %</th><th>clips</th>"
        f"<th>better</th></tr>{rows}</table>"
    )


def _ends(name: str, evaluation: Evaluation, opened: Mapping[str, ClipSet]) -> str:
    """Returns the clips at both ends of a metric that has one number for each."""
    rows = evaluation.rows[name]
    numbers = {clip: float(row) for clip, row in rows.items() if np.ndim(row) == 0}
    if len(numbers) < 2:
        return ""
    order = sorted(numbers, key=lambda clip: (numbers[clip], clip))
    count = min(_SHOWN, len(order) // 2)
    figures = [
        f"<h3>{which} {html.escape(name)}</h3><div class='clips'>"
        + "".join(_figure(clip, numbers[clip], **opened) for clip in clips)
        + "</div>"
        for which, clips in (("Lowest", order[:count]), ("Highest", order[-count:]))
    ]
    return "".join(figures)


def _figure(
    clip: str, value: float, generated: ClipSet, reference: ClipSet | None = None
) -> str:
    frames, rate = generated.read(clip), probe(generated.files[clip]).fps
    if reference is not None and clip in reference.files:
        beside = reference.read(clip)
        if beside.shape == frames.shape:
            gap = np.full((*frames.shape[:2], _GAP, 3), 255, np.uint8)
            frames = np.concatenate([beside, gap, frames], axis=2)
    return (
        f"<figure>{_film(frames, rate)}<figcaption>{html.escape(clip)}: {value:.4g}"
        "</figcaption></figure>"
    )


def _film(frames: UInt8[np.ndarray, "t h w 3"], rate: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.webp"
        write_video(path, frames, rate or 1.0)
        data = base64.b64encode(path.read_bytes()).decode()
    return f'<img height="{_HEIGHT}" alt="" src="data:image/webp;base64,{data}">'

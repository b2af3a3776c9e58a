"""A page of an evaluation: a table with intervals, and its worst and best clips."""

import html
from collections.abc import Mapping

import numpy as np

from soraxla.evals.clip_sets import ClipSet
from soraxla.evals.evaluation import Evaluation, better
from soraxla.evals.html_page import document, film
from soraxla.evals.metrics.metric import Metric
from soraxla.media.read import probe

_SHOWN = 4  # clips at each end of a metric


def page(title: str, evaluation: Evaluation) -> str:
    """Returns the whole page, which needs no other file."""
    directions = {name: better(evaluation, name) for name in evaluation.values}
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in evaluation.notes)
    sets = "; ".join(
        f"{kind}: {found['n']} clips of {found['folder']}"
        for kind, found in evaluation.sets.items()
    )
    return document(
        title,
        f"<p>{html.escape(sets)}.</p>{table(evaluation.values, directions)}{notes}"
        + "".join(_ends(name, evaluation) for name in evaluation.metrics),
    )


def table(values: Mapping[str, Metric], directions: Mapping[str, str | None]) -> str:
    """Returns the table of metrics and their intervals, as HTML."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value.value:.4g}</td>"
        f"<td>{value.low:.4g} … {value.high:.4g}</td><td>{value.n}</td>"
        f"<td>{directions[name] or ''}</td></tr>"
        for name, value in values.items()
    )
    return (
        "<table><tr><th></th><th>value</th><th>95 %</th><th>clips</th>"
        f"<th>better</th></tr>{rows}</table>"
    )


def _ends(name: str, evaluation: Evaluation) -> str:
    """Returns the clips at both ends of a metric that has one number for each."""
    rows = evaluation.rows[name]
    numbers = {clip: float(row) for clip, row in rows.items() if np.ndim(row) == 0}
    if len(numbers) < 2:
        return ""
    order = sorted(numbers, key=lambda clip: (numbers[clip], clip))
    count = min(_SHOWN, len(order) // 2)
    figures = [
        f"<h3>{which} {html.escape(name)}</h3><div class='clips'>"
        + "".join(_figure(clip, numbers[clip], **evaluation.opened) for clip in clips)
        + "</div>"
        for which, clips in (("Lowest", order[:count]), ("Highest", order[-count:]))
    ]
    return "".join(figures)


def _figure(
    clip: str, value: float, generated: ClipSet, reference: ClipSet | None = None
) -> str:
    frames, rate = generated.read(clip), probe(generated.files[clip]).fps
    shown = [frames]
    if reference is not None and clip in reference.files:
        beside = reference.read(clip)
        if beside.shape == frames.shape:
            shown = [beside, frames]
    return (
        f"<figure>{film(shown, rate or 1.0)}<figcaption>{html.escape(clip)}: "
        f"{value:.4g}</figcaption></figure>"
    )

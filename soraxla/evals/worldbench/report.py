"""A report in one file: asks, truth and generated clips side by side, and plots."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from soraxla.evals.charts import INKS
from soraxla.evals.html_page import HEIGHT, document, film
from soraxla.evals.worldbench.cases import Case, Measure, Score
from soraxla.evals.worldbench.numbers import Number
from soraxla.evals.worldbench.runner import FAMILIES, Outcome

_SHOWN = 8  # clips of a family


def page(title: str, outcomes: Mapping[str, Outcome]) -> str:
    """Returns the whole page, which needs no other file."""
    parts = [_family(name, outcome) for name, outcome in outcomes.items()]
    return document(
        title,
        "<p>A normalised score of 0 is the floor (the last condition frame repeated, "
        "or a clip generated for another prompt, whichever is better), 1 the ceiling "
        "(the simulator’s frames through the VAE). In pictures: left the truth, in the "
        "middle the generated clip, right the truth through the VAE. In plots: thin "
        "lines are the truth, thick lines the clip, grey the condition frames.</p>"
        + "".join(parts),
    )


def _family(name: str, outcome: Outcome) -> str:
    family = FAMILIES[name]
    rows = [
        _row(measure, family.measures[measure], number)
        for measure, number in outcome.numbers.items()
    ]
    notes = [f"{guess}: {share:.3g}" for guess, share in outcome.chance.items()]
    notes += [
        f"{which} score: {score:.2f}" for which, score in outcome.family_scores.items()
    ]
    notes += [outcome.asked_without] * bool(outcome.unsupported)
    clips = [
        _clip(
            outcome.cases[i],
            [outcome.videos[source][i] for source in ("model", "ceiling")],
            outcome.scores["model"][i],
        )
        for i in range(min(_SHOWN, len(outcome.cases)))
    ]
    return (
        f"<h2>{html.escape(name)}</h2><p>{html.escape(family.what)}. "
        f"{len(outcome.cases)} clips.</p><table><tr><th></th><th>model</th>"
        "<th>95 %</th><th>ceiling</th><th>floor</th><th>normalised</th><th></th></tr>"
        f"{''.join(rows)}</table><p>{html.escape('; '.join(notes))}</p>{''.join(clips)}"
    )


def _row(name: str, measure: Measure, number: Number) -> str:
    value = number.value
    cells = (
        f"{value.value:.3g}",
        f"{value.low:.3g}…{value.high:.3g}",
        f"{number.ceiling:.3g}",
        f"{number.floors[number.floor]:.3g}, {number.floor}",
        f"{number.normalised.value:.2f}",
    )
    what = f"{html.escape(name)}, {measure.unit}<br><small>{html.escape(measure.what)}"
    return (
        f"<tr><td>{what}</small></td>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + f"<td>{_scale(number)}</td></tr>"
    )


def _scale(number: Number) -> str:
    """Draws floor (left), ceiling (right) and the model's score with its interval."""
    normalised = [_held(each) for each in number.normalised]
    if any(math.isnan(each) for each in normalised):
        return ""
    at, low, high = (20 + 160 * each for each in normalised)
    return (
        '<svg width="200" height="26"><line x1="20" x2="180" y1="13" y2="13" '
        'stroke="#bbb"/><line x1="100" x2="100" y1="9" y2="17" stroke="#bbb"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="13" y2="13" stroke="#2471a3" '
        f'stroke-width="4"/><circle cx="{at:.1f}" cy="13" r="5" fill="#2471a3"/></svg>'
    )


def _held(score: float) -> float:
    return min(max(score, 0.0), 1.0)


def _clip(case: Case, videos: Sequence[np.ndarray], score: Score) -> str:
    values = ", ".join(
        f"{name} {value:.3g}"
        for name, value in score.values.items()
        if not math.isnan(value)
    )
    words = [html.escape(part) for part in (values, score.note) if part]
    pictures = film([case.truth.video, *videos], case.truth.fps) + _plot(case, score)
    return (
        f'<div class="clip">{pictures}'
        f"<p>“{html.escape(case.truth.caption)}”<br><small>seed {case.seed}; "
        f"{case.condition_frames} condition frames<br>{'<br>'.join(words)}"
        "</small></p></div>"
    )


def _plot(case: Case, score: Score) -> str:
    """Draws curves over time, all on one scale."""
    if not score.curves:
        return ""
    frames, width, height = len(case.truth.video), 260, HEIGHT
    both = np.concatenate([line for pair in score.curves.values() for line in pair])
    low, high = float(np.nanmin(both)), float(np.nanmax(both))
    scale = (height - 20) / max(high - low, 1e-9)

    def path(line: Float[np.ndarray, " t"]) -> str:
        """Returns a path with gaps at NaN."""
        parts, pen = [], "M"
        for t, value in enumerate(line):
            if math.isnan(value):
                pen = "M"
                continue
            x, y = t * width / (frames - 1), height - 5 - (value - low) * scale
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        return " ".join(parts)

    condition = max(case.condition_frames - 1, 0) * width / (frames - 1)
    lines = [f'<rect width="{condition:.1f}" height="{height}" fill="#eee"/>']
    for i, (name, (truth, generated)) in enumerate(score.curves.items()):
        ink = INKS[i % len(INKS)]
        for line, thick in ((truth, 1), (generated, 2.5)):
            lines.append(
                f'<path d="{path(line)}" fill="none" stroke="{ink}" '
                f'stroke-width="{thick}"/>'
            )
        lines.append(
            f'<text x="4" y="{12 + 13 * i}" style="fill:{ink}">{html.escape(name)}'
            "</text>"
        )
    return f'<svg width="{width}" height="{height}">{"".join(lines)}</svg>'

"""The report of a scaling study: curves, the law, and clips of growing compute."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from soraxla.evals.charts import Line, chart
from soraxla.evals.html_page import document, film, side_by_side
from soraxla.evals.metrics.metric import RESAMPLES, Metric, bootstrap
from soraxla.media.read import probe, read_clip
from soraxla.media.write import write_video
from soraxla.tools.scaling.law import LEAST, Law, fit
from soraxla.tools.scaling.points import Measured

_SHOWN = 8  # prompts


class Fitted(NamedTuple):
    """A law and the ends of the 95 % intervals of its numbers."""

    law: Law
    low: Law
    high: Law


def loss_chart(points: Sequence[Measured]) -> str:
    """Returns the chart of the held-out loss against FLOPs, a line for each size."""
    return _curves(points, [each.loss for each in points], "held-out loss")


def fitted(points: Sequence[Measured]) -> Fitted | None:
    """Returns the law of the points; None if they are too few for a fit.

    Its intervals come from resamples of the held-out clips, the same ones at all
    points.
    """
    sizes = {each.point.size for each in points}
    computes = {each.point.compute for each in points}
    if min(len(sizes), len(computes)) < LEAST:
        return None
    n = np.array([each.point.parameters for each in points], float)
    d = np.array([each.point.tokens for each in points], float)
    losses = np.stack([each.losses for each in points])
    law = fit(n, d, losses.mean(axis=1))
    rng, clips = np.random.default_rng(0), losses.shape[1]
    picks = rng.integers(clips, size=(RESAMPLES, clips))
    draws = [fit(n, d, losses[:, pick].mean(axis=1), start=law) for pick in picks]
    low, high = np.quantile(np.array(draws), (0.025, 0.975), axis=0)
    return Fitted(law, Law(*low.tolist()), Law(*high.tolist()))


def page(title: str, points: Sequence[Measured]) -> str:
    """Returns the whole report, one HTML file."""
    charts = [loss_chart(points)]
    for name in points[0].metrics:
        values = [each.metrics[name] for each in points]
        if all(value.value > 0 for value in values):
            charts.append(_curves(points, values, name))
    if len({each.point.size for each in points}) > 1:
        charts.append(_by_size(points))
    figures = "".join(f"<figure>{each}</figure>" for each in charts)
    return document(
        title,
        f'<div class="clips">{figures}</div>{_differences(points)}'
        f"{_law(fitted(points))}{_table(points)}{_films(points)}",
    )


def _curves(points: Sequence[Measured], values: Sequence[Metric], name: str) -> str:
    lines = []
    for size in dict.fromkeys(each.point.size for each in points):
        own = [
            (each.point.flops, value)
            for each, value in zip(points, values, strict=True)
            if each.point.size == size
        ]
        lines.append(
            Line(
                name=size,
                x=[flops for flops, _ in own],
                y=[value.value for _, value in own],
                low=_positive([value.low for _, value in own]),
                high=_positive([value.high for _, value in own]),
            )
        )
    return chart(lines, x="FLOPs of training", y=name)


def _positive(ends: list[float]) -> list[float] | None:
    """Returns the ends of intervals; None where a logarithmic axis cannot show one."""
    return ends if all(end > 0 for end in ends) else None


def _by_size(points: Sequence[Measured]) -> str:
    """Returns the chart of the loss against parameters, a line for each compute."""
    lines = []
    for compute in dict.fromkeys(each.point.compute for each in points):
        own = [each for each in points if each.point.compute == compute]
        own.sort(key=lambda each: each.point.parameters)
        lines.append(
            Line(
                name=f"{compute:g}×",
                x=[float(each.point.parameters) for each in own],
                y=[each.loss.value for each in own],
                low=[each.loss.low for each in own],
                high=[each.loss.high for each in own],
            )
        )
    return chart(lines, x="parameters", y="held-out loss at equal FLOPs")


def best_of(points: Sequence[Measured]) -> list[Measured]:
    """Returns the point with the least loss of every compute."""
    computes = dict.fromkeys(each.point.compute for each in points)
    return [
        min(
            (each for each in points if each.point.compute == compute),
            key=lambda each: each.loss.value,
        )
        for compute in sorted(computes)
    ]


def gain(one: Measured, other: Measured) -> Metric:
    """Returns the fall of the loss from one point to another, clip by clip."""
    return bootstrap(one.losses - other.losses)


def _differences(points: Sequence[Measured]) -> str:
    first, *others = best_of(points)
    rows = []
    for other in others:
        fall = gain(first, other)
        rows.append(
            f"<p>From {first.point.name} to {other.point.name}, the held-out loss "
            f"falls by {fall.value:.4g} (95 %: {fall.low:.4g} … {fall.high:.4g}, "
            f"{fall.n} clips).</p>"
        )
    return "".join(rows)


def _law(found: Fitted | None) -> str:
    if found is None:
        return (
            f"<p>There is no fit of a law: it needs at least {LEAST} sizes and {LEAST} "
            "computes.</p>"
        )
    cells = "".join(
        f"<td>{name} = {value:.3g} ({low:.3g} … {high:.3g})</td>"
        for name, value, low, high in zip(
            Law._fields, found.law, found.low, found.high, strict=True
        )
    )
    return (
        "<p>L = E + A / N<sup>a</sup> + B / D<sup>b</sup>, for N parameters and D "
        f"tokens:</p><table><tr>{cells}</tr></table>"
    )


def _table(points: Sequence[Measured]) -> str:
    names = list(points[0].metrics)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for each in points:
        values = [each.loss, *(each.metrics[name] for name in names)]
        cells = "".join(
            f"<td>{v.value:.4g} <small>{v.low:.4g} … {v.high:.4g}</small></td>"
            for v in values
        )
        rows.append(
            f"<tr><td>{each.point.name}</td><td>{each.point.parameters:,}</td>"
            f"<td>{each.point.steps:,}</td><td>{each.point.flops:.3g}</td>{cells}</tr>"
        )
    return (
        "<table><tr><th>point</th><th>parameters</th><th>steps</th><th>FLOPs</th>"
        f"<th>held-out loss</th>{head}</tr>{''.join(rows)}</table>"
    )


def _films(points: Sequence[Measured]) -> str:
    """Plays clips of the same prompt and noise side by side, by growing compute."""
    chosen = best_of(points)
    names = ", ".join(each.point.name for each in chosen)
    shown = [
        f"<figure>{film(clips, fps)}</figure>" for _, clips, fps in _of_prompts(chosen)
    ]
    return (
        f"<h2>The same prompts and noise</h2><p>From left to right: {names}.</p>"
        f'<div class="clips">{"".join(shown)}</div>'
    )


def write_films(points: Sequence[Measured], folder: Path) -> None:
    """Writes a `.webp` for each prompt that the report shows, as it shows it."""
    folder.mkdir(exist_ok=True)
    for name, clips, fps in _of_prompts(best_of(points)):
        write_video(folder / f"{name}.webp", side_by_side(clips), fps)


def _of_prompts(
    points: Sequence[Measured],
) -> Iterator[tuple[str, list[UInt8[np.ndarray, "t h w 3"]], float]]:
    """Yields the name, the clip of each point and the rate, for some prompts."""
    for file in _files(points[0].clips)[:_SHOWN]:
        clips = [read_clip(each.clips / file.name) for each in points]
        yield file.stem, clips, probe(file).fps or 1.0


def _files(folder: Path) -> list[Path]:
    return sorted(x for x in folder.iterdir() if x.suffix in (".mp4", ".png"))

"""Families asked of a model, each beside its ceiling and its floors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.worlds.sizes import Size
from soraxla.core.errors import UserError
from soraxla.evals.worldbench import (
    consistency,
    control,
    interaction,
    permanence,
    physics,
    text,
)
from soraxla.evals.worldbench.cases import (
    FIRST_SEED,
    Autoencode,
    Case,
    Family,
    Generate,
    Score,
    Video,
    heard,
    still,
    unheard,
)
from soraxla.evals.worldbench.numbers import Number, family_ways, summarise
from soraxla.packing.controls import Controls

FAMILIES: dict[str, Family] = {
    "permanence": permanence.FAMILY,
    "physics": physics.FAMILY,
    "interaction": interaction.FAMILY,
    "consistency": consistency.FAMILY,
    "control": control.FAMILY,
    "text": text.FAMILY,
}


_NOT_STEERED = {
    "actions": "asked without actions: this model is not steered by them",
    "camera": "asked without the camera: this model is not steered by it",
}


class Outcome(NamedTuple):
    """A family's cases, what the model and the VAE made of them, and the scores."""

    cases: list[Case]
    videos: dict[str, list[Video]]  # "model" and "ceiling"
    scores: dict[str, list[Score]]  # by source
    numbers: dict[str, Number]
    chance: dict[str, float]
    unheard: tuple[str, ...]  # what of the cases the model could not be told

    @property
    def ways(self) -> dict[str, float]:
        """The mean and the least of the measures'."""
        return family_ways(self.numbers)

    @property
    def asked_without(self) -> str:
        """A line on what the model could not be told; "" where that is nothing."""
        return "; ".join(_NOT_STEERED[name] for name in self.unheard)


def draw_cases(family: Family, clips: int, size: Size) -> list[Case]:
    """The first cases of the held-out seeds.

    Raises:
        UserError: fewer than two clips, or a size in which nothing can be asked.
    """
    if clips < 2:
        raise UserError(
            f"clips is {clips}, expected 2 or more: one is paired with others"
        )
    return [family.case(FIRST_SEED + i, size) for i in range(clips)]


def run_family(
    family: Family,
    cases: Sequence[Case],
    known: Controls,
    generate: Generate,
    autoencode: Autoencode,
    done: Callable[[], Any],
) -> Outcome:
    """Generates and scores; calls `done` after each clip made, two a case.

    The ceiling is what the VAE makes of the truth; the floors are the last given frame
    for ever, and the clip made for another case. The model is told what it is steered
    by, `known`, and asked without the rest.
    """
    asks = [heard(case.ask, known) for case in cases]
    made: dict[int, Video] = {}
    for place, video in generate(asks):
        _check(video, cases[place])
        made[place] = video
        done()
    ceiling = []
    for ask, case in zip(asks, cases, strict=True):
        ceiling.append(_with_given(autoencode(ask, case.truth.video), case))
        done()
    model = [made[i] for i in range(len(cases))]
    videos = {"model": model, "ceiling": ceiling, "shuffled": model[1:] + model[:1]}
    if any(measure.copies for measure in family.measures.values()):
        videos["copied"] = [still(case) for case in cases]
    scores = {
        source: [family.score(*pair) for pair in zip(cases, each, strict=True)]
        for source, each in videos.items()
    }
    return Outcome(
        cases=list(cases),
        videos={source: videos[source] for source in ("model", "ceiling")},
        scores=scores,
        numbers=summarise(family.measures, scores),
        chance=family.chance(cases),
        unheard=unheard(cases[0].ask, known),
    )


def _check(video: np.ndarray, case: Case) -> None:
    shape, expected = video.shape, case.truth.video.shape
    if shape != expected or video.dtype != np.uint8:
        raise UserError(f"a clip is {video.dtype} {shape}, expected uint8 {expected}")


def _with_given(video: Video, case: Case) -> Video:
    return np.concatenate([case.truth.video[: case.given], video[case.given :]])


def table(outcomes: Mapping[str, Outcome]) -> str:
    """What a terminal shows: a line a measure, then lines a family."""
    head = ("", "model", "95 %", "ceiling", "floor", "way")
    rows = [head]
    for name, outcome in outcomes.items():
        rows += [
            (
                f"{name}: {measure}",
                f"{number.value.value:.3g}",
                f"{number.value.low:.3g}…{number.value.high:.3g}",
                f"{number.ceiling:.3g}",
                f"{number.floors[number.floor]:.3g} ({number.floor})",
                f"{number.way.value:.2f}",
            )
            for measure, number in outcome.numbers.items()
        ]
    rows += [
        (f"{name}: {guess}", f"{share:.3g}", "", "", "", "")
        for name, outcome in outcomes.items()
        for guess, share in outcome.chance.items()
    ]
    rows += [
        (f"{name}, {which} way", "", "", "", "", f"{way:.2f}")
        for name, outcome in outcomes.items()
        for which, way in outcome.ways.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [
        f"{name}: {outcome.asked_without}"
        for name, outcome in outcomes.items()
        if outcome.unheard
    ]
    return "\n".join(lines)

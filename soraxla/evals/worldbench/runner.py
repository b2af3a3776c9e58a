"""The runner of families: a model's scores beside its ceiling and its floors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.worlds.sizes import Size
from soraxla.core.errors import UserError
from soraxla.evals.worldbench import (
    bites,
    candle,
    consistency,
    control,
    count,
    glass,
    interaction,
    permanence,
    physics,
    text,
    treadmill,
)
from soraxla.evals.worldbench.cases import (
    FIRST_SEED,
    Autoencode,
    Case,
    Family,
    Generate,
    Score,
    Video,
    still,
    supported,
    unsupported,
)
from soraxla.evals.worldbench.numbers import Number, family_scores, summarise
from soraxla.packing.controls import Controls

FAMILIES: dict[str, Family] = {
    "permanence": permanence.FAMILY,
    "physics": physics.FAMILY,
    "interaction": interaction.FAMILY,
    "consistency": consistency.FAMILY,
    "control": control.FAMILY,
    "text": text.FAMILY,
    "candle": candle.FAMILY,
    "glass": glass.FAMILY,
    "treadmill": treadmill.FAMILY,
    "bites": bites.FAMILY,
    "count": count.FAMILY,
}


_NOT_STEERED = {
    "actions": "asked without actions: this model is not steered by them",
    "camera": "asked without the camera: this model is not steered by it",
}


class Outcome(NamedTuple):
    """The results of a family: its cases, the model's and VAE's clips, the scores."""

    cases: list[Case]
    videos: dict[str, list[Video]]  # "model" and "ceiling"
    scores: dict[str, list[Score]]  # by source
    numbers: dict[str, Number]
    chance: dict[str, float]
    unsupported: tuple[str, ...]  # controls of the cases that the model lacks

    @property
    def family_scores(self) -> dict[str, float]:
        """The mean and the least normalised score of the measures."""
        return family_scores(self.numbers)

    @property
    def asked_without(self) -> str:
        """A line on the controls that the model lacks; "" if there is none."""
        return "; ".join(_NOT_STEERED[name] for name in self.unsupported)


def draw_cases(family: Family, clips: int, size: Size) -> list[Case]:
    """Returns the first cases of the held-out seeds.

    Raises:
        UserError: fewer than two clips, or a size without any case.
    """
    if clips < 2:
        raise UserError(
            f"clips is {clips}, expected 2 or more: each is paired with another"
        )
    return [family.case(FIRST_SEED + i, size) for i in range(clips)]


def run_family(
    family: Family,
    cases: Sequence[Case],
    controls: Controls,
    generate: Generate,
    autoencode: Autoencode,
    done: Callable[[], Any],
) -> Outcome:
    """Generates and scores; calls `done` after each clip, two per case.

    The ceiling is the VAE's reconstruction of the truth. The floors are the last
    condition frame repeated, and the clip generated for another case. The model gets
    only the `controls` that it supports.
    """
    asks = [supported(case.ask, controls) for case in cases]
    generated: dict[int, Video] = {}
    for place, video in generate(asks):
        _check(video, cases[place])
        generated[place] = video
        done()
    ceiling = []
    for ask, case in zip(asks, cases, strict=True):
        ceiling.append(_with_condition(autoencode(ask, case.truth.video), case))
        done()
    model = [generated[i] for i in range(len(cases))]
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
        unsupported=unsupported(cases[0].ask, controls),
    )


def _check(video: np.ndarray, case: Case) -> None:
    shape, expected = video.shape, case.truth.video.shape
    if shape != expected or video.dtype != np.uint8:
        raise UserError(f"a clip is {video.dtype} {shape}, expected uint8 {expected}")


def _with_condition(video: Video, case: Case) -> Video:
    return np.concatenate(
        [case.truth.video[: case.condition_frames], video[case.condition_frames :]]
    )


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Returns the terminal's table: a line per measure, then lines per family."""
    head = ("", "model", "95 %", "ceiling", "floor", "normalised")
    rows = [head]
    for name, outcome in outcomes.items():
        rows += [
            (
                f"{name}: {measure}",
                f"{number.value.value:.3g}",
                f"{number.value.low:.3g}…{number.value.high:.3g}",
                f"{number.ceiling:.3g}",
                f"{number.floors[number.floor]:.3g} ({number.floor})",
                f"{number.normalised.value:.2f}",
            )
            for measure, number in outcome.numbers.items()
        ]
    rows += [
        (f"{name}: {guess}", f"{share:.3g}", "", "", "", "")
        for name, outcome in outcomes.items()
        for guess, share in outcome.chance.items()
    ]
    rows += [
        (f"{name}, {which} score", "", "", "", "", f"{score:.2f}")
        for name, outcome in outcomes.items()
        for which, score in outcome.family_scores.items()
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
        if outcome.unsupported
    ]
    return "\n".join(lines)

"""The share of captions of held-out clips of a world that state its facts exactly."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.view import View, ViewConfig, view_array
from data_pipelines.worlds import WORLDS, draw_size
from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.evals.caption_facts import FACTS, Facts
from soraxla.evals.metrics.metric import Metric, bootstrap
from soraxla.evals.worldbench.cases import FIRST_SEED

Describe = Callable[[Sequence[View]], list[str]]


class Scored(NamedTuple):
    """A captioned clip: the simulator's caption, the captioner's, and their facts."""

    seed: int
    told: str
    caption: str
    true: Facts
    read: Facts


class FactScore(NamedTuple):
    """A fact's share of exact answers, and that of the best constant answer."""

    right: Metric
    constant: float


def caption_world(
    describe: Describe,
    view: ViewConfig,
    world: str,
    *,
    clips: int = 200,
    batch: int = 64,
) -> Iterator[Scored]:
    """Yields captions of clips that are in no dataset, of the sizes of datasets.

    Raises:
        UserError: the facts of this world cannot be read, or there is no clip.
    """
    if world not in FACTS:
        raise UserError(f"unknown world {world!r}{nearest(world, FACTS)}")
    if clips < 1:
        raise UserError(f"{clips} clips, expected at least 1")
    seeds = range(FIRST_SEED, FIRST_SEED + clips)
    for start in range(0, clips, batch):
        part = seeds[start : start + batch]
        made = [
            WORLDS[world](seed, **draw_size(seed, pictures=0.0)._asdict())
            for seed in part
        ]
        shown = [view_array(clip.video, clip.fps, view) for clip in made]
        for seed, clip, text in zip(part, made, describe(shown), strict=True):
            facts = FACTS[world]
            yield Scored(seed, clip.caption, text, facts.true(clip), facts.read(text))


def fact_scores(scored: Sequence[Scored]) -> dict[str, FactScore]:
    """Returns the score of each fact over the clips that it is asked of."""
    found = {}
    for name in scored[0].true:
        asked = [each for each in scored if each.true[name] is not None]
        if not asked:
            continue
        right = [float(each.read[name] == each.true[name]) for each in asked]
        counts = Counter(repr(each.true[name]) for each in asked)
        constant = counts.most_common(1)[0][1] / len(asked)
        found[name] = FactScore(bootstrap(np.array(right)), constant)
    return found

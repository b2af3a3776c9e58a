"""Trackers of effects are right on true clips, and find each planted failure."""

from typing import NamedTuple

import numpy as np
import pytest

from data_pipelines.worlds import effects
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench import cases as worldbench
from soraxla.evals.worldbench import runner

SMALL = Size(width=48, height=48, frames=17, fps=16.0)
RIGHT, APART = 0.95, 0.15


class Rule(NamedTuple):
    """A family of effects: its scene, and the scores of a clip that is read rightly."""

    scene: str
    right: dict[str, tuple[float, float]]  # the least and the most of a measure


RULES = {
    "candle": Rule("candle", {"flame right": (1, 1), "smoke error": (0, 0.5)}),
    "glass": Rule("glass", {"pieces error": (0, 0), "area error": (0, 0.2)}),
    "treadmill": Rule(
        "treadmill",
        {"belt direction": (1, 1), "foot direction": (1, 1), "slip": (0, 0.3)},
    ),
    "bites": Rule("", {"bites error": (0, 0), "eaten error": (0, 0.1)}),
    "count": Rule("fish", {"count error": (0, 0), "changes without cause": (0, 0)}),
}


def is_right(rule, values):
    bounds = [(values[name], *rule.right[name]) for name in rule.right]
    return all(np.isnan(v) or low <= v <= high for v, low, high in bounds)


def draw_cases(name, clips, size):
    family = runner.FAMILIES[name]
    return [family.case(worldbench.FIRST_SEED + i, size) for i in range(clips)]


@pytest.fixture(scope="module", params=RULES)
def family(request):
    cases = draw_cases(request.param, 10, SMALL)
    return runner.FAMILIES[request.param], RULES[request.param], cases


def planted(rule, case):
    """The clip with the failure of its scene; food is whole again."""
    size = case.ask.size._asdict()
    if rule.scene:
        return effects.simulate(case.seed, **size, scene=rule.scene, failed=True).video
    healed = case.truth.video.copy()
    healed[-len(healed) // 5 :] = healed[0]
    return healed


def share_right(family, rule, cases, video_of):
    values = [family.score(case, video_of(case)).values for case in cases]
    return np.mean([is_right(rule, each) for each in values])


def test_the_tracker_is_right_on_the_simulators_frames(family):
    found, rule, cases = family
    assert share_right(found, rule, cases, lambda case: case.truth.video) >= RIGHT


def test_a_planted_failure_is_found(family):
    found, rule, cases = family
    wrong = share_right(found, rule, cases[:5], lambda case: planted(rule, case))
    assert wrong <= 1 - RIGHT


def test_food_that_grows_back_is_a_bite_too_many():
    rule, family = RULES["bites"], runner.FAMILIES["bites"]
    for case in draw_cases("bites", 2, SMALL):
        assert family.score(case, planted(rule, case)).values["bites error"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_trackers_are_right_on_many_clips_of_usual_size(name):
    found, rule = runner.FAMILIES[name], RULES[name]
    cases = draw_cases(name, 60, worldbench.SIZE)
    assert share_right(found, rule, cases, lambda case: case.truth.video) >= RIGHT
    wrong = share_right(found, rule, cases, lambda case: planted(rule, case))
    assert wrong <= 1 - RIGHT


def test_ceiling_and_floor_are_apart(family):
    """True clips score better than repeated frames, other clips and noise."""
    found, _, cases = family
    rng, some = np.random.default_rng(0), cases[:5]
    shape, turned = some[0].truth.video.shape, some[1:] + some[:1]
    videos = {
        "ceiling": [case.truth.video for case in some],
        "copied": [worldbench.still(case) for case in some],
        "shuffled": [case.truth.video for case in turned],
        "noise": [rng.integers(0, 256, shape, dtype=np.uint8) for _ in some],
    }
    for name, measure in found.measures.items():
        means = {
            source: np.nanmean(
                [
                    found.score(*pair).values[name]
                    for pair in zip(some, each, strict=True)
                ]
            )
            for source, each in videos.items()
            if measure.copies or source != "copied"
        }
        ceiling, sign = means.pop("ceiling"), 1 if measure.higher else -1
        assert min(sign * (ceiling - floor) for floor in means.values()) > APART, name

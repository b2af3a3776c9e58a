"""Facts of captions: the simulator's own captions state them, changed ones do not."""

import numpy as np
import pytest

from data_pipelines.view import ViewConfig
from data_pipelines.worlds import WORLDS, draw_size
from soraxla.core.errors import UserError
from soraxla.evals import caption_score
from soraxla.evals.caption_facts import FACTS
from soraxla.evals.caption_score import caption_world, fact_scores

CLIPS = 12


@pytest.mark.slow
@pytest.mark.parametrize("world", FACTS)
def test_the_simulators_captions_state_the_facts(world):
    seen = set()
    for seed in range(100):
        episode = WORLDS[world](seed, **draw_size(seed)._asdict())
        true, read = FACTS[world].true(episode), FACTS[world].read(episode.caption)
        asked = {name: fact for name, fact in true.items() if fact is not None}
        assert {name: read[name] for name in asked} == asked, episode.caption
        seen |= asked.keys()
    assert seen == FACTS[world].true(episode).keys()


READ = {
    "a red disc glides up behind two dark grey walls": (
        [("red", "circle", "up")],
        "behind",
        2,
    ),
    "a scene with a brown pillar: a pink star rests and a cyan plus sign moves "
    "diagonally to the lower left": (
        [("cyan", "cross", "down left"), ("pink", "star", "")],
        "beside",
        1,
    ),
    "nothing hides a blue heart as it moves from right to left": (
        [("blue", "heart", "left")],
        "open",
        0,
    ),
    "no shape at all": ([], "open", 0),
}


@pytest.mark.parametrize("caption", READ)
def test_a_caption_is_read(caption):
    shapes, relation, walls = READ[caption]
    read = FACTS["occlusion"].read(caption)
    assert read["colour, shape and direction"] == shapes
    assert (read["relation"], read["walls"]) == (relation, walls)
    assert read["count"] == len(shapes)


def test_balls_are_read():
    read = FACTS["physics"].read(
        "two balls, red and blue, roll on a green billiard table and collide; a pink "
        "ball lies still"
    )
    assert read == {
        "colour": ["blue", "pink", "red"],
        "count": 3,
        "motion": "roll",
        "relation": True,
    }


def test_scores_count_exact_facts_only(monkeypatch):
    told = {}

    def world(seed, **size):
        episode = WORLDS["occlusion"](
            seed % 1000, width=64, height=64, frames=5, fps=8.0
        )
        told[episode.video[0].tobytes()] = episode.caption
        return episode

    monkeypatch.setattr(caption_score, "WORLDS", {"occlusion": world})

    def describe(views):
        texts = [told[shown.pixels[0].tobytes()] for shown in views]
        return [texts[0].replace(" a ", " the "), *texts[1:-1], "a mistake"]

    view = ViewConfig(frames=2, side=64, patch=8)
    clips = caption_world(describe, view, "occlusion", clips=CLIPS, batch=CLIPS)
    found = fact_scores(list(clips))
    np.testing.assert_allclose(found["colour"].right.value, 1 - 1 / CLIPS)
    assert found["colour"].right.n == CLIPS
    assert 0 < found["relation"].constant < 1
    with pytest.raises(UserError, match="unknown world 'voxel'"):
        next(caption_world(describe, view, "voxel"))

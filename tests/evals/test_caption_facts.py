"""Facts of captions: the simulator's own captions state them, changed ones do not."""

import numpy as np
import pytest

from data_pipelines.view import ViewConfig
from data_pipelines.worlds import WORLDS, Size, draw_size
from soraxla.core.errors import UserError
from soraxla.evals import caption_score
from soraxla.evals.caption_facts import FACTS
from soraxla.evals.caption_score import caption_world, fact_scores

CLIPS = 12


def simulated(world):
    """Returns clips of a world, smaller ones of the one that takes long."""
    if world != "voxel":
        sizes = [draw_size(seed) for seed in range(100)]
    else:
        frames = [33] * 18 + [1] * 2
        sizes = [Size(width=64, height=48, frames=t, fps=16.0) for t in frames]
    return [WORLDS[world](seed, **size._asdict()) for seed, size in enumerate(sizes)]


@pytest.mark.slow
@pytest.mark.parametrize("world", FACTS)
def test_the_simulators_captions_state_the_facts_and_others_do_not(world):
    clips, facts = simulated(world), FACTS[world]
    true = [facts.true(clip) for clip in clips]
    read = [facts.read(clip.caption) for clip in clips]
    for clip, known, told in zip(clips, true, read, strict=True):
        asked = {name: fact for name, fact in known.items() if fact is not None}
        assert {name: told[name] for name in asked} == asked, clip.caption
    for name in true[0]:
        asked = [
            (i, each[name]) for i, each in enumerate(true) if each[name] is not None
        ]
        assert asked, name
        right = [fact == read[i - 1][name] for i, fact in asked]
        assert np.mean(right) < 0.8, name  # by the caption of another clip


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


def test_strokes_and_bites_are_read():
    read = FACTS["marks"].read(
        "a piece of chalk draws a cyan looping line, lifts, and draws a cyan round "
        "loop on a green board"
    )
    assert (read["object"], read["surface"]) == ("piece of chalk", "a green board")
    assert read["colour"] == ["cyan", "cyan"] and read["shape"] == ["circle", "loops"]
    eaten = {
        "three bites are taken out of a red apple": ("red apple", 3),
        "a burger is bitten twice": ("burger", 2),
        "a cookie on a white table": ("cookie", 0),
    }
    for caption, facts in eaten.items():
        read = FACTS["marks"].read(caption)
        assert (read["object"], read["count"], read["shape"]) == (*facts, [])


EFFECTS = {
    "nobody blows out a red candle, and it burns on": {
        **{"scene": "candle", "colour": ["red"], "flame": "burns", "count": None}
    },
    "a breath from the left puts out a pink candle": {"flame": "out"},
    "four pieces are left of a blue bowl that falls from a shelf": {
        **{"scene": "glass", "colour": ["blue"], "thing": "bowl", "count": 4}
    },
    "the belt of a treadmill runs to the left under a walker in a red shirt": {
        **{"scene": "treadmill", "direction": ["right"], "colour": None}
    },
    "two fish: a red fish swims in from the left and a white fish glides to the left "
    "out of the picture": {
        "scene": "fish",
        "colour, direction and fate": [
            ("red", "right", "enters"),
            ("white", "left", "leaves"),
        ],
    },
}


@pytest.mark.parametrize("caption", EFFECTS)
def test_effects_are_read(caption):
    read = FACTS["effects"].read(caption)
    assert {name: read[name] for name in EFFECTS[caption]} == EFFECTS[caption]


def test_a_land_of_blocks_is_read():
    read = FACTS["voxel"].read(
        "The walker digs out two blocks of sand, puts down a block of marble and turns "
        "left. At noon: a dense wood made of cubes, with fir trees and a beach."
    )
    assert read == {
        **{"land": "forest", "hour": "noon", "things": ["firs", "sand"]},
        **{"camera": None, "direction": ""},
        "edits": [("dig", "sand", 2), ("place", "marble", 1)],
    }
    read = FACTS["voxel"].read(
        "The view glides onwards above the ground and bends to the right."
    )
    assert (read["camera"], read["direction"]) == ("flight", "right")


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
    with pytest.raises(UserError, match="unknown world 'voxels'"):
        next(caption_world(describe, view, "voxels"))

"""Shapes behind walls: where they are predicted, and what is said of them."""

import functools
import re
from collections import Counter
from itertools import product

import numpy as np
import pytest

from data_pipelines.worlds import draw
from data_pipelines.worlds.occlusion import simulate
from data_pipelines.worlds.occlusion_scene import DIRECTIONS, HELD_OUT
from data_pipelines.worlds.occlusion_words import NOUNS, TOWARD
from tests.marks import slow

SIZE = {"width": 64, "height": 64, "frames": 17, "fps": 12.0}
SMALL = {"width": 32, "height": 32, "frames": 3}


@functools.cache
def clips(count, **options):
    return [simulate(seed, **(SIZE | options)) for seed in range(count)]


def triples(episode):
    names = ("colour", "shape", "direction")
    return set(zip(*(map(str, episode.state[name]) for name in names), strict=True))


def test_a_shape_is_back_where_its_velocity_predicts():
    """Seen before the wall, extrapolated past it, found there again by its pixels."""
    found = 0
    for episode in clips(60):
        state = episode.state
        if len(state["colour"]) > 1 or not len(state["walls"]):
            continue
        if not state["direction"][0]:
            continue
        seen = state["visible"][:, 0] > 0.999
        hidden = np.nonzero(~seen)[0]
        assert seen[0] and seen[-1] and len(hidden), episode.caption
        centres = [
            np.array(np.nonzero(episode.ids[t] == 1))[::-1].mean(1) for t in (0, -1)
        ]
        time = (len(seen) - 1) / episode.fps
        predicted = centres[0] + time * state["velocity"][0]
        np.testing.assert_allclose(centres[1], predicted, atol=0.6)
        found += 1
    assert found > 15


def test_what_is_wholly_behind_a_wall_cannot_be_seen():
    hidden = 0
    for episode in clips(60):
        for left, top, right, bottom in episode.state["walls"]:
            reach = draw.REACH * episode.state["radius"] + 1
            place, visible = episode.state["position"], episode.state["visible"]
            inside = (
                (place[..., 0] - reach > left) & (place[..., 0] + reach < right)
            ) | ((place[..., 1] - reach > top) & (place[..., 1] + reach < bottom))
            upright = bottom - top > right - left
            axis, low, high = (0, left, right) if upright else (1, top, bottom)
            inside = (place[..., axis] - reach > low) & (
                place[..., axis] + reach < high
            )
            assert (visible[inside] == 0).all()
            for t, k in zip(*np.nonzero(visible == 0), strict=True):
                assert not (episode.ids[t] == k + 1).any()
                hidden += 1
    assert hidden > 30


def test_half_of_the_clips_show_one_shape():
    counts = [len(episode.state["colour"]) for episode in clips(300, **SMALL)]
    assert 0.4 < np.mean(np.equal(counts, 1)) < 0.6 and set(counts) == {1, 2, 3}


def test_captions_say_colour_shape_direction_and_wall():
    for episode in clips(300, **SMALL):
        text, state = episode.caption, episode.state
        for colour, shape, way in triples(episode):
            nouns = "|".join(NOUNS.get(shape, (shape,)))
            assert re.search(rf"\b{colour} ({nouns})\b", text), text
            assert not way or any(words in text for words in TOWARD[way]), text
        if not len(state["walls"]):
            assert not re.search("wall|pillar|beam|behind", text), text
            continue
        plural = "s" if len(state["walls"]) > 1 else ""
        assert re.search(
            rf"\b{state['wall_colour']} (wall|pillar|beam){plural}\b", text
        ), text
        ways = list(state["direction"])
        says = re.search("behind|hidden|disappears|vanishes", text)
        assert bool(says) == all(ways), text


def test_captions_are_varied():
    """Single shapes, with the words for what is seen blanked out."""
    words = {*draw.COLOURS, *draw.SHAPES, *draw.BACKDROPS, *TOWARD}
    texts = [e.caption for e in clips(300, **SMALL) if len(e.state["colour"]) == 1]
    blank = {re.sub("|".join(sorted(words, key=len)[::-1]), "_", t) for t in texts}
    assert len(blank) > 60


@pytest.mark.parametrize("seeds", [300, *slow(2000)])
def test_held_out_triples_never_occur_unless_asked_for(seeds):
    seen, produced = {}, set()
    for episode in clips(seeds, **SMALL):
        here = triples(episode)
        assert not here & HELD_OUT
        produced |= here
    for axis, names in enumerate((draw.COLOURS, draw.SHAPES, DIRECTIONS)):
        seen = [triple[axis] for triple in produced]
        assert all(seen.count(name) >= seeds // 100 for name in names)
    assert len(HELD_OUT) >= 20
    asked = [triples(e) for e in clips(200, frames=2, held_out=True)]
    assert all(len(each) == 1 and each <= HELD_OUT for each in asked)
    assert set().union(*asked) == HELD_OUT


def test_every_pair_of_a_held_out_triple_is_common_otherwise():
    straight = [way for way, step in DIRECTIONS.items() if 0 in step]
    every = set(product(draw.COLOURS, draw.SHAPES, straight))
    assert every > HELD_OUT
    for a, b in ((0, 1), (0, 2), (1, 2)):
        left = Counter((triple[a], triple[b]) for triple in every - HELD_OUT)
        whole = Counter((triple[a], triple[b]) for triple in every)
        assert all(left[pair] >= whole[pair] / 2 for pair in whole)


def test_a_triple_can_be_fixed():
    triple = ("red", "circle", "right")
    for episode in clips(20, triple=triple):
        assert triples(episode) == {triple} and len(episode.state["walls"])
        assert episode.state["velocity"][0, 0] > 0 == episode.state["velocity"][0, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"triple": ("mauve", "circle", "right")},
        {"triple": ("red", "circle", "right"), "frames": 1},
        {"held_out": True, "frames": 1},
        {"held_out": True, "triple": ("red", "circle", "right")},
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(wrong):
    with pytest.raises(ValueError) as error:
        simulate(0, **(SIZE | wrong))
    assert "\n" not in str(error.value)

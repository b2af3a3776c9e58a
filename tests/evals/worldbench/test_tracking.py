"""Tracked things are where the simulator put them, to half a pixel."""

import numpy as np
import pytest

from data_pipelines.worlds import occlusion, physics
from soraxla.evals.worldbench.tracking import (
    background,
    count_things,
    masked_median,
    track,
    true_tracks,
)

SIZE = {"width": 64, "height": 64, "frames": 17, "fps": 16.0}


@pytest.mark.parametrize("seed", range(6))
def test_balls_are_where_they_are(seed):
    truth = physics.simulate(1_000_000 + seed, **SIZE)
    found = track(truth.video, background(truth), list(truth.state["colour"]))
    away = np.linalg.norm(found.position - truth.state["position"], axis=-1)
    assert away.max() < 0.5


@pytest.mark.parametrize("seed", range(6))
def test_shapes_in_view_are_where_they_are_seen(seed):
    truth = occlusion.simulate(1_000_000 + seed, **SIZE)
    colours = list(truth.state["colour"])
    found, there = (
        track(truth.video, background(truth), colours),
        true_tracks(truth, len(colours)),
    )
    seen = truth.state["visible"] > 0.95
    away = np.linalg.norm(found.position - there.position, axis=-1)
    assert away[seen].max() < 0.6
    ratio = found.area[seen] / there.area[seen]
    assert ratio.min() > 0.75 and ratio.max() < 1.6  # a ring is found with its hole


def test_a_thing_of_another_colour_is_not_seen():
    truth = physics.simulate(1_000_000, **SIZE)
    held = set(truth.state["colour"])
    blank = np.broadcast_to(background(truth), truth.video.shape).astype(np.uint8)
    found = track(blank, background(truth), sorted(held))
    assert (found.area == 0).all() and np.isnan(found.position).all()


def test_edges_of_the_background_are_no_things_when_they_are_soft():
    """A VAE softens edges, but a wall next to dark ground leaves no grey thing."""
    back = np.full((32, 32, 3), (98, 114, 142), np.float32)
    back[:, 12:20] = (198, 172, 132)
    soft = (back + np.roll(back, 1, 1) + np.roll(back, -1, 1)) / 3
    video = np.repeat(soft[None].astype(np.uint8), 2, axis=0)
    assert track(video, back, ["white"]).area.max() == 0


def test_things_are_counted_whatever_their_colour():
    back = np.full((32, 32, 3), 200, np.float32)
    video = np.full((3, 32, 32, 3), 200, np.uint8)
    video[1, 4:10, 4:10] = (218, 38, 38)
    video[2, 4:10, 4:10] = (44, 160, 62)
    video[2, 20:26, 20:26] = (36, 84, 220)
    video[2, 0, 0] = 0  # smaller than what counts
    assert count_things(video, back, smallest=20.0).tolist() == [0, 1, 2]


def test_the_median_is_of_what_is_seen():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    seen = rng.random((7, 4, 5)) < 0.5
    seen[0] |= ~seen.any(0)
    seen[:, 2, 2] = False
    middle = masked_median(video, seen)
    for y in range(4):
        for x in range(5):
            if seen[:, y, x].any():
                expected = np.median(video[seen[:, y, x], y, x], axis=0)
                np.testing.assert_allclose(middle[y, x], expected)
    around = [middle[y, x] for y, x in ((1, 2), (3, 2), (2, 1), (2, 3))]
    assert any((middle[2, 2] == each).all() for each in around)

"""Balls: energy, momentum, room, and captions that agree with the bounces."""

import re

import numpy as np
import pytest

from data_pipelines.worlds.bounces import SLOW, Balls, trajectory
from data_pipelines.worlds.physics import simulate

TIMES = np.arange(0, 10, 1 / 30)  # seconds
FLOOR = 60.0


def balls(seed, *, gravity, restitution, count=4):
    rng = np.random.default_rng(seed)
    place = np.stack([np.arange(count) * 14 + 10, rng.uniform(12, 50, count)], 1)
    return Balls(
        place.astype(float),
        rng.uniform(-80, 80, (count, 2)),
        rng.uniform(3, 6, count),
        (0.0, 0.0, 64.0, FLOOR),
        gravity,
        restitution,
    )


def energy(start, motion):
    kinetic = 0.5 * (motion.velocity**2).sum(-1)
    height = FLOOR - motion.position[..., 1]
    return (start.mass * (kinetic + start.gravity * height)).sum(-1)


@pytest.mark.parametrize("gravity", [0.0, 150.0, 500.0])
@pytest.mark.parametrize("seed", range(5))
def test_energy_is_kept_where_nothing_is_lost(seed, gravity):
    start = balls(seed, gravity=gravity, restitution=1.0)
    motion = trajectory(start, TIMES)
    total = energy(start, motion)
    assert len(motion.bounce_time) > 50
    np.testing.assert_allclose(total, total[0], rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_energy_only_falls_where_bounces_lose_some(seed):
    start = balls(seed, gravity=300.0, restitution=0.6)
    total = energy(start, trajectory(start, TIMES))
    assert (np.diff(total) <= 1e-4 * total[0]).all()
    assert total[-1] < 0.75 * total[0]


@pytest.mark.parametrize("gravity", [0.0, 300.0])
@pytest.mark.parametrize("seed", range(5))
def test_balls_stay_in_the_box_and_out_of_each_other(seed, gravity):
    start = balls(seed, gravity=gravity, restitution=0.7)
    place = trajectory(start, TIMES).position
    radius = start.radius[:, None]
    assert (place >= radius - 1e-6).all()
    assert (place <= np.array((64.0, FLOOR)) - radius + 1e-6).all()
    apart = np.linalg.norm(place[:, :, None] - place[:, None], axis=-1)
    gaps = apart - radius - radius.T
    assert gaps[:, ~np.eye(4, dtype=bool)].min() > -1e-6


def test_a_dropped_ball_bounces_when_and_as_high_as_the_formulas_say():
    """Falls 40 pixels at 200 px/s²: t = √(2h/g), and e²h is the next height."""
    start = Balls(
        np.array([[32.0, 15.0]]),
        np.zeros((1, 2)),
        np.array([5.0]),
        (0.0, 0.0, 64.0, FLOOR),
        200.0,
        0.5,
    )
    motion = trajectory(start, np.linspace(0, 1.4, 2801))
    fall = np.sqrt(2 * 40 / 200)
    np.testing.assert_allclose(motion.bounce_time[:2], [fall, 2 * fall], rtol=1e-12)
    between = (motion.position[:, 0, 1])[int(fall / 5e-4) + 1 : int(2 * fall / 5e-4)]
    np.testing.assert_allclose(between.min(), FLOOR - 5 - 0.25 * 40, atol=1e-3)


def test_two_equal_balls_that_meet_head_on_swap_velocities():
    start = Balls(
        np.array([[16.0, 30.0], [48.0, 30.0]]),
        np.array([[20.0, 0.0], [-4.0, 0.0]]),
        np.full(2, 4.0),
        (0.0, 0.0, 64.0, FLOOR),
        0.0,
        1.0,
    )
    assert start.velocity.max() > SLOW
    motion = trajectory(start, np.array([0.0, 1.5]))
    np.testing.assert_allclose(motion.bounce_time, [1.0])
    assert motion.bounce_against == ["ball 0"] and motion.bounce_ball == [1]
    np.testing.assert_allclose(motion.velocity[1, :, 0], [-4.0, 20.0])


def test_captions_match_the_state():
    times = {1: "once", 2: "twice", 3: "three times", 4: "four times"}
    counted = 0
    for seed in range(150):
        episode = simulate(seed, width=32, height=32, frames=9, fps=5.0)
        text, state = episode.caption, episode.state
        for colour in state["colour"]:
            assert re.search(rf"\b{colour}\b", text), text
        met = [str(name) for name in state["bounce_against"]]
        floor = met.count("floor")
        if state["gravity"]:
            if "bounces" in text and (
                said := set(times.values())
                & {words for words in times.values() if words in text}
            ):
                assert said == {times[floor]}, text
                counted += 1
            assert floor or not re.search("bounce|hits", text), text
        else:
            assert "table" in text and "floor" not in text
            assert ("cushions" in text) <= any("ball" not in name for name in met)
        collide = re.search("collide|hit each other", text)
        assert bool(collide) <= any(name.startswith("ball") for name in met), text
    assert counted > 10


def test_some_clips_have_gravity_and_some_are_billiards():
    size = {"width": 32, "height": 32, "frames": 1, "fps": 8.0}
    falls = [float(simulate(seed, **size).state["gravity"]) > 0 for seed in range(200)]
    assert 0.55 < np.mean(falls) < 0.8

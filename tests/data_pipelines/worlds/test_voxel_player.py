"""A body among blocks, and its actions."""

import numpy as np
import pytest

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.voxel_actions import ACTIONS, parse_actions, wander
from data_pipelines.worlds.voxel_paths import start_player
from data_pipelines.worlds.voxel_player import Player, covers, is_free, move
from data_pipelines.worlds.voxel_terrain import SIZE, TALL, make_land

FRAME = 1 / 20


def ground():
    grid = np.zeros((SIZE, TALL, SIZE), np.uint8)
    grid[:, :10] = vb.GRASS
    return grid


def play(grid, text, player=None, seconds=FRAME):
    """The players of all frames, the first included."""
    players = [player or Player((64.5, 10.000001, 64.5), 0, 0)]
    for row in parse_actions(*text.split()):
        players.append(move(grid, players[-1], row, seconds))
    return players


def test_forward_goes_where_the_view_goes_at_walking_speed():
    walked = np.subtract(play(ground(), "forward*20")[-1].feet, (64.5, 10, 64.5))
    np.testing.assert_allclose(walked, (0, 0, 4.3), atol=1e-5)
    turned = play(ground(), "right*20 forward*20")[-1]
    assert turned.yaw == pytest.approx(90)
    walked = np.subtract(turned.feet, (64.5, 10, 64.5))
    np.testing.assert_allclose(walked, (-4.3, 0, 0), atol=1e-5)
    slanted = play(ground(), "forward+step_left*20")[-1]
    assert np.hypot(slanted.feet[0] - 64.5, slanted.feet[2] - 64.5) < 4.3 + 1e-6


def test_a_jump_clears_a_block_and_comes_down_where_it_began():
    players = play(ground(), "jump wait*20")
    heights = [p.feet[1] - 10 for p in players]
    assert 1.1 < max(heights) < 1.4
    assert players[-1].grounded and heights[-1] == pytest.approx(0, abs=1e-5)
    assert not players[4].grounded
    low = ground()
    low[:, 12] = vb.STONE
    assert max(p.feet[1] for p in play(low, "jump wait*20")) < 10.21


def test_one_block_is_climbed_and_two_are_a_wall():
    grid = ground()
    grid[:, 10, 67:] = vb.STONE
    climbed = play(grid, "forward*30")
    assert climbed[-1].feet[1] == pytest.approx(11, abs=1e-5)
    assert climbed[-1].feet[2] > 69
    # The eyes follow the feet without a jolt.
    eyes = np.array([p.eyes[1] for p in climbed])
    assert np.diff(eyes).max() < 0.5 and eyes[-1] - eyes[0] == pytest.approx(
        1, abs=1e-4
    )
    grid[:, 11, 67:] = vb.STONE
    stopped = play(grid, "forward*30")[-1]
    assert stopped.feet[2] == pytest.approx(66.7, abs=1e-5)
    assert stopped.feet[1] == pytest.approx(10, abs=1e-5)


@pytest.mark.parametrize("top", range(24, 34))
def test_who_walks_off_an_edge_falls_to_the_ground_below(top):
    grid = ground()
    grid[:, 10:top, :66] = vb.STONE
    players = play(grid, "forward*50", Player((64.5, top + 1e-6, 64.5), 0.0, 0.0))
    assert players[-1].feet[1] == pytest.approx(10, abs=1e-5)
    # Nothing stands on the air just above the ground, however fast it came.
    stood = {round(p.feet[1], 4) for p in players if p.grounded}
    assert stood == {10, top}


def test_one_wades_in_water():
    grid = ground()
    grid[:, 9, 66:] = vb.WATER
    assert play(grid, "forward*30")[-1].feet[1] == pytest.approx(9.5, abs=1e-5)
    out = play(grid, "forward*30 back*80")[-1]
    assert out.feet[1] == pytest.approx(10, abs=1e-5) and out.feet[2] < 65


@pytest.mark.parametrize("seed", range(8))
def test_a_body_is_never_in_a_block(seed):
    """Whatever is pressed, at any rate, on any land."""
    rng = np.random.default_rng(seed)
    land = make_land(seed)
    player = start_player(rng, land)
    assert is_free(land.grid, player.feet)
    for _ in range(120):
        row = (rng.random(len(ACTIONS)) < 0.4).astype(np.float32)
        row[0] = rng.random() < 0.9
        player = move(land.grid, player, row, 1 / float(rng.uniform(6, 30)))
        assert is_free(land.grid, player.feet), player
        x, y, z = np.floor(player.eyes).astype(int)
        assert y >= TALL or land.grid[x % SIZE, y, z % SIZE] == vb.AIR
    assert abs(player.pitch) <= 80


def test_a_body_covers_the_cells_it_stands_in():
    player = Player((64.8, 10.2, 64.5), 0, 0)
    assert [covers(player, (x, 10, 64)) for x in (63, 64, 65, 66)] == [0, 1, 1, 0]
    assert [covers(player, (64, y, 64)) for y in (9, 10, 11, 12)] == [0, 1, 1, 0]


def test_actions_are_read_from_text():
    rows = parse_actions("forward*3", "left + jump", "wait*2")
    named = [{n for n, on in zip(ACTIONS, row, strict=True) if on} for row in rows]
    assert named == [{"forward"}] * 3 + [{"left", "jump"}] + [set()] * 2
    assert rows.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lefft*4", "'lefft' is no action: did you mean 'left'?"),
        ("forward+digg", "did you mean 'dig'?"),
        ("", "'' is no action"),
        ("forward++dig", "'' is no action"),
        ("jump*0", "'jump\\*0' has the count '0', expected whole frames from 1"),
        ("jump*", "has the count ''"),
        ("dig*-2", "has the count '-2'"),
        ("dig*2.5", "has the count '2.5'"),
        ("dig*x", "has the count 'x'"),
    ],
)
def test_bad_actions_are_refused_in_a_line(text, says):
    with pytest.raises(ValueError, match=says) as error:
        parse_actions("forward*8", text)
    assert "\n" not in str(error.value)


def test_who_is_stopped_turns_away():
    script = wander(np.random.default_rng(0), fps=10.0)
    next(script)
    rows = [script.send(True) for _ in range(40)]
    turns = np.array(
        [row[[ACTIONS.index("left"), ACTIONS.index("right")]] for row in rows]
    )
    assert (turns.sum(1) > 0).mean() > 0.6

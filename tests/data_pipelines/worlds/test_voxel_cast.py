"""Rays against geometry: planes, cubes, every single cell, and frame against frame."""

import numpy as np
import pytest

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.voxel import film
from data_pipelines.worlds.voxel_cast import VIEW, leaps, leaps_after, trace_jit
from data_pipelines.worlds.voxel_light import light, make_sky
from data_pipelines.worlds.voxel_terrain import SIZE, TALL, make_land
from data_pipelines.worlds.voxel_view import (
    FOV,
    camera,
    make_scene,
    rays,
    render,
    with_block,
)
from tests.marks import slow

EYE = np.array([60.3, 20.7, 70.9])


def empty():
    grid = np.zeros((SIZE, TALL, SIZE), np.uint8)
    grid[:, 0] = vb.STONE
    return grid


def look(grid, pose, size=48):
    scene = make_scene(grid, make_sky(0)[1])
    picture = render(scene, pose, 0.0, height=size, width=size)
    direction = pose[:3, :3] @ rays(size, size, corners=False)
    depth, ids = (np.asarray(part).reshape(-1) for part in picture[1:])
    return depth, ids, direction.astype(np.float64)


def test_the_depth_of_a_plane_is_that_of_geometry():
    grid = empty()
    grid[:, :8] = vb.SAND
    depth, ids, direction = look(grid, camera(EYE, 37.0, -21.0))
    exact = (8 - EYE[1]) / direction[1]
    hit = (exact > 0) & (exact < VIEW)
    assert 0.3 < hit.mean() < 0.95
    np.testing.assert_allclose(depth[hit], exact[hit], rtol=2e-5)
    assert (ids[hit] == vb.SAND).all()
    assert (depth[~hit] == 0).all() and (ids[~hit] == vb.AIR).all()


def test_the_depth_of_a_cube_is_that_of_geometry():
    grid = empty()
    grid[58, 19, 76] = vb.BRICKS
    # Off the axes, or rays through the pixels' centres would be parallel to faces.
    depth, ids, direction = look(grid, camera(EYE, 14.0, -9.0))
    first = (np.array([[58], [19], [76]]) - EYE[:, None]) / direction
    last = (np.array([[59], [20], [77]]) - EYE[:, None]) / direction
    enter = np.minimum(first, last).max(0)
    hit = (enter < np.maximum(first, last).min(0) - 1e-4) & (enter > 0)
    assert hit.sum() > 20
    assert (ids[hit] == vb.BRICKS).all()
    np.testing.assert_allclose(depth[hit], enter[hit], rtol=2e-5)
    assert (ids == vb.BRICKS).sum() <= hit.sum() + 2


def step_by_step(grid, origin, direction):
    """Distance to the first block, one cell after another, in float64."""
    cell = np.floor(origin).astype(int)
    distance = 0.0
    while distance < VIEW and cell[1] < TALL:
        if cell[1] < 0 or grid[cell[0] % SIZE, cell[1], cell[2] % SIZE]:
            return distance
        border = np.where(direction > 0, cell + 1, cell)
        leave = (border - origin) / direction
        axis = leave.argmin()
        distance = leave[axis]
        cell[axis] += 1 if direction[axis] > 0 else -1
    return np.inf


@pytest.mark.parametrize("seed", [0, 3])
def test_leaps_find_what_single_steps_find(seed):
    rng = np.random.default_rng(seed)
    # What floats sparsely in the air has rays through every size of leap.
    grid = empty()
    grid[rng.random(grid.shape) < 0.0008] = vb.STONE
    grid[60, 20, 70] = vb.AIR
    direction = rng.normal(size=(3, 512)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=0)
    flat = grid.reshape(-1), leaps(grid).reshape(-1)
    hits = trace_jit(*flat, EYE.astype(np.float32), direction)
    exact = np.array(
        [step_by_step(grid, EYE, d) for d in direction.T.astype(np.float64)]
    )
    found = np.where(np.asarray(hits.block) > 0, hits.distance, np.inf)
    assert 0.1 < np.isinf(exact).mean() < 0.9
    # A ray may pass an edge on the other side, by rounding; hardly any does.
    close = np.isclose(found, exact, rtol=1e-4)
    assert close.mean() > 0.99


def test_a_ray_along_an_axis_ends():
    grid = empty()
    grid[60, 20, 90] = vb.STONE
    direction = np.array([[0, 0, -1], [0, 0, 0], [1, -1, 0]], np.float32)
    flat = grid.reshape(-1), leaps(grid).reshape(-1)
    hits = trace_jit(*flat, EYE.astype(np.float32), direction)
    assert np.asarray(hits.block).tolist() == [vb.STONE, 0, 0]
    np.testing.assert_allclose(hits.distance[0], 90 - EYE[2], rtol=1e-5)


def test_leaps_after_edits_stay_safe():
    """No leap is longer than to the nearest block, nor 0 anywhere but in a block."""
    grid = make_land(5).grid.copy()
    leap = leaps(grid)
    rng = np.random.default_rng(0)
    for _ in range(12):
        cell = tuple(int(c) for c in rng.integers((0, 1, 0), (SIZE, TALL, SIZE)))
        grid[cell] = vb.AIR if grid[cell] else vb.BRICKS
        leap = leaps_after(leap, cell, bool(grid[cell]))
    assert (leap <= leaps(grid)).all()
    assert ((leap == 0) == (grid != 0)).all()


def test_an_edited_scene_looks_as_one_that_was_made_so():
    sky = make_sky(1)[1]
    grid = make_land(1).grid
    edited = make_scene(grid, sky)
    for cell, block in (((64, 40, 64), vb.BRICKS), ((64, 40, 65), vb.BRICKS)):
        edited = with_block(edited, cell, block)
    edited = with_block(edited, (64, 40, 64), vb.AIR)
    pose = camera(np.array([64.5, 42.2, 60.1]), 1.0, -20.0)
    size = {"height": 48, "width": 48}
    views = [
        render(scene, pose, 0.0, **size)
        for scene in (edited, make_scene(edited.blocks, sky))
    ]
    assert (np.asarray(views[0].ids) == vb.BRICKS).any()
    np.testing.assert_array_equal(views[0].ids, views[1].ids)
    np.testing.assert_allclose(views[0].depth, views[1].depth, rtol=1e-5)


def test_shadows_fall_away_from_the_sun():
    grid = empty()
    grid[:, :8] = vb.GRASS
    grid[40, 8:14, 40] = vb.WOOD
    lit = light(grid, np.array([0.6, 0.8, 0], np.float32)) & 255
    assert lit[36, 8, 40] < 100  # half as far as the trunk is tall
    assert lit[44, 8, 40] == lit[40, 8, 36] == lit[40, 20, 40] == 255
    assert lit[40, 5, 40] == 0


def project(pose, point, height, width):
    """Pixel coordinates (x, y) and distance of world points (3, n) to a camera."""
    seen = pose[:3, :3].T @ (point - pose[:3, 3:])
    focal = height / 2 / np.tan(np.radians(FOV) / 2)
    ahead = seen[2] > 0.1
    xy = seen[:2] / np.where(ahead, seen[2], 1) * focal
    xy += np.array([[width / 2], [height / 2]])
    return xy, np.linalg.norm(seen, axis=0), ahead


def unproject(pose, depth):
    """World points (3, n) that the pixels of a frame show."""
    local = rays(*depth.shape, corners=False).astype(np.float64)
    return pose[:3, :3] @ local * depth.reshape(-1) + pose[:3, 3:]


@pytest.mark.parametrize("seed", slow(*range(6)))
def test_a_point_seen_in_a_frame_lands_where_another_sees_it(seed):
    """It is there, by less than half a pixel, or something stands before it."""
    height, width = 64, 80
    episode = film(seed, width=width, height=height, frames=9, fps=4.0)
    row, column = np.divmod(np.arange(height * width), width)
    start = np.stack([column, row]) + 0.5
    for i, j in ((0, 4), (4, 8), (8, 5)):
        here, there = episode.camera[[i, j]].astype(np.float64)
        point = unproject(here, episode.depth[i])
        xy, away, ahead = project(there, point, height, width)
        x, y = np.floor(xy).astype(int)
        inside = ahead & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        inside &= episode.depth[i].reshape(-1) > 0
        assert inside.sum() > 300
        pixel = np.where(inside, y * width + x, 0)
        depth = np.where(episode.depth[j] > 0, episode.depth[j], np.inf)
        # Nobody sees through a point: at an edge a pixel beside it may be beyond it.
        around = np.pad(depth, 1, constant_values=np.inf)
        around = [
            around[r : r + height, c : c + width] for r in range(3) for c in range(3)
        ]
        nearest = np.min(around, 0).reshape(-1)[pixel]
        assert (nearest > 1.02 * away)[inside].mean() < 0.005
        depth = depth.reshape(-1)[pixel]
        visible = inside & (np.abs(depth - away) < 0.02 * away)
        assert visible.sum() > 0.2 * inside.sum()
        same = episode.ids[i].reshape(-1) == episode.ids[j].reshape(-1)[pixel]
        assert same[visible].mean() > 0.9
        # The same ray of the other camera, as far as that camera saw, in this one.
        eye = there[:3, 3:]
        along = np.where(visible, depth / away, 1)
        back, _, _ = project(here, eye + (point - eye) * along, height, width)
        error = np.linalg.norm(back - start, axis=0)
        assert error[visible].mean() < 0.5

"""A land of blocks in first person: seen by a player who acts, or a free camera.

Hills, trees, water and desert are cubes of one length, the unit of all distances; y is
up, and the land repeats every 128 blocks, twice the viewing distance. `simulate` has a
player, `film` a camera without one. Both return an `Episode` with

- `camera` (T,4,4): camera to world; x right, y down, z ahead, of the intrinsics that
  `voxel_view` gives: a field of view of 70 degrees in height, square pixels
- `depth` (T,H,W): along the ray through a pixel's centre; 0 is sky, or farther than 64
- `ids` (T,H,W): the block there; k is row k-1 of `block`

and a state with

- `block` (15,): names
- `grid` (128,48,128): the block in each cell (x, y, z) at the start, as `ids` has them
- `edits` (E,5): int32; frame, x, y, z of the grid, block: before that frame the
  block was put into the cell; 0 removed the block there
- `position` (T,3), `yaw`, `pitch` (T,): of the camera, blocks and degrees; at yaw 0 it
  looks along z, yaw turns it right and pitch up; x and z may leave the grid
- `feet` (T,3) and `grounded` (T,), of a player: its position, and whether it stands
- `biome`, `hour` (): names; `path` (), of a film: orbit, flight or turn
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import check_size
from data_pipelines.worlds.voxel_actions import ACTIONS, Script, replay, wander
from data_pipelines.worlds.voxel_cast import trace_jit
from data_pipelines.worlds.voxel_light import make_sky
from data_pipelines.worlds.voxel_paths import Path, draw_path, start_player
from data_pipelines.worlds.voxel_player import REACH, Player, covers, is_stopped, move
from data_pipelines.worlds.voxel_terrain import SIZE, TALL, Land, make_land
from data_pipelines.worlds.voxel_view import (
    Picture,
    Scene,
    camera,
    make_scene,
    render,
    with_block,
)
from data_pipelines.worlds.voxel_words import (
    PlayerHistory,
    both_ways,
    path_words,
    player_words,
    scene_words,
)
from soraxla.core.errors import UserError

_HANDS = (
    vb.BRICKS,
    vb.PLANKS,
    vb.MARBLE,
    vb.WOOL,
)  # the blocks that a player may place


class _Edit(NamedTuple):
    """A block put into a cell of the grid, in place of another."""

    cell: tuple[int, int, int]
    block: int
    before: int


class _Start(NamedTuple):
    """The parts of a clip that depend on the seed only."""

    land: Land
    hour: str
    scene: Scene
    rng: np.random.Generator


class _Played(NamedTuple):
    """A player's clip; a row or an item for each frame."""

    pictures: list[Picture]
    rows: Float[np.ndarray, "t a"]
    players: list[Player]
    stopped: Bool[np.ndarray, " t"]
    edits: list[_Edit | None]


def simulate(
    seed: int,
    *,
    width: int,
    height: int,
    frames: int,
    fps: float,
    actions: Float[np.ndarray, "n a"] | None = None,
) -> Episode:
    """Simulates a first-person clip of a player who walks, digs and builds.

    Row k of `actions`, rows of `ACTIONS`, is done between frames k and k+1: digging and
    placing act on the middle of frame k. After the last row the player stands still.
    Without `actions`, a varied script is drawn.

    Raises:
        UserError: the size is out of range, or the rows are not of `ACTIONS` or more
            than the frames allow.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    start = _start(seed)
    player = start_player(start.rng, start.land)
    hand = _HANDS[int(start.rng.integers(len(_HANDS)))]
    if actions is None:
        script = wander(start.rng, fps)
    else:
        script = replay(_checked(actions, frames))
    size = {"width": width, "height": height}
    played = _play(start.scene, player, hand, script, frames, fps, size)
    edits, players = played.edits, played.players
    history = PlayerHistory(
        played.rows,
        np.array([p.grounded for p in players]),
        played.stopped,
        [vb.BLOCKS[e.before] if e and e.block == vb.AIR else "" for e in edits],
        [vb.BLOCKS[e.block] if e and e.block != vb.AIR else "" for e in edits],
    )
    path = Path(
        np.array([p.eyes for p in players]),
        np.array([p.yaw for p in players]),
        np.array([p.pitch for p in players]),
    )
    episode = _episode(start, played.pictures, fps, path)
    changed = [(i, *e.cell, e.block) for i, e in enumerate(edits) if e]
    state = {
        "edits": np.array(changed, np.int32).reshape(-1, 5),
        "feet": np.array([p.feet for p in players], np.float32),
        "grounded": history.grounded,
    }
    caption = episode.caption
    if frames > 1:
        caption = both_ways(start.rng, caption, player_words(start.rng, history, fps))
    return episode._replace(
        caption=caption, actions=played.rows, state=episode.state | state
    )


def film(seed: int, *, width: int, height: int, frames: int, fps: float) -> Episode:
    """Simulates a free camera that circles, flies or turns; its actions are 0.

    Raises:
        UserError: the size is out of range.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    start = _start(seed)
    kind, path = draw_path(start.rng, start.land, frames, fps)
    scene = jax.device_put(start.scene)
    pictures = [
        render(scene, camera(*pose), i / fps, width=width, height=height)
        for i, pose in enumerate(zip(*path, strict=True))
    ]
    episode = _episode(start, pictures, fps, path)
    caption = episode.caption
    if frames > 1:
        motion = path_words(start.rng, kind, path.yaw)
        caption = both_ways(start.rng, caption, motion)
    return episode._replace(
        caption=caption, state=episode.state | {"path": np.array(kind)}
    )


def _start(seed: int) -> _Start:
    land, (hour, sky) = make_land(seed), make_sky(seed)
    rng = np.random.default_rng((seed, 0xB10C))
    return _Start(land, hour, make_scene(land.grid, sky), rng)


def _play(
    scene: Scene,
    player: Player,
    hand: int,
    script: Script,
    frames: int,
    fps: float,
    size: dict[str, int],
) -> _Played:
    """Plays a script frame by frame: a row, its digging, the move, a view."""
    played = _Played(
        [], np.zeros((frames, len(ACTIONS)), np.float32), [], np.zeros(frames, bool), []
    )
    on_device = jax.device_put(scene)
    for i in range(frames):
        edit = None
        if i:
            row = script.send(bool(played.stopped[i - 1]) if i > 1 else None)
            edit = _use(scene, player, row, hand)
            if edit is not None:
                scene = with_block(scene, edit.cell, edit.block)
                on_device = jax.device_put(scene)
            before, player = player, move(scene.blocks, player, row, 1 / fps)
            played.rows[i] = row
            played.stopped[i] = is_stopped(before, player, row, 1 / fps)
        to_world = camera(player.eyes, player.yaw, player.pitch)
        played.pictures.append(render(on_device, to_world, i / fps, **size))
        played.players.append(player)
        played.edits.append(edit)
    return played


def _checked(actions: np.ndarray, frames: int) -> np.ndarray:
    count, wide = actions.shape
    if wide != len(ACTIONS) or count > frames - 1:
        raise UserError(
            f"actions are {count} rows of {wide}, expected at most {frames - 1} (a row "
            f"between two of {frames} frames) of {len(ACTIONS)}: {', '.join(ACTIONS)}"
        )
    return actions


def _use(scene: Scene, player: Player, row: np.ndarray, hand: int) -> _Edit | None:
    """Digs, or else places a block; returns None if nothing is within reach."""
    dig, place = (row[ACTIONS.index(name)] for name in ("dig", "place"))
    if not (dig or place):
        return None
    to_world = camera(player.eyes, player.yaw, player.pitch)
    ahead = to_world[:3, 2:3]
    flat = scene.blocks.reshape(-1), scene.leap.reshape(-1)
    hits = jax.device_get(trace_jit(*flat, to_world[:3, 3], ahead, REACH))
    before = int(hits.block[0])
    cell = [int(c) for c in hits.cell[:, 0]]
    if before == vb.AIR:
        return None
    if dig:
        # The lowest layer stays, since the land has nothing below it.
        kept = before == vb.WATER or cell[1] == 0
        return None if kept else _Edit(_in_grid(cell), vb.AIR, before)
    axis = int(hits.axis[0])
    cell[axis] -= int(np.sign(ahead[axis, 0]))
    if not 0 <= cell[1] < TALL or covers(player, (cell[0], cell[1], cell[2])):
        return None
    return _Edit(_in_grid(cell), hand, vb.AIR)


def _in_grid(cell: list[int]) -> tuple[int, int, int]:
    return cell[0] % SIZE, cell[1], cell[2] % SIZE


def _episode(start: _Start, pictures: list[Picture], fps: float, path: Path) -> Episode:
    """Returns the clip of a free camera; its caption describes the view."""
    colour, depth, ids = (np.stack(part) for part in zip(*pictures, strict=True))
    return Episode(
        video=colour,
        fps=fps,
        caption=scene_words(start.rng, start.land.biome, start.hour, ids),
        actions=np.zeros((len(ids), len(ACTIONS)), np.float32),
        camera=np.stack([camera(*pose) for pose in zip(*path, strict=True)]),
        depth=depth,
        ids=ids,
        state={
            "block": np.array(vb.BLOCKS[1:]),
            "grid": start.scene.blocks,
            "edits": np.zeros((0, 5), np.int32),
            "biome": np.array(start.land.biome),
            "hour": np.array(start.hour),
        }
        | {name: part.astype(np.float32) for name, part in path._asdict().items()},
    )

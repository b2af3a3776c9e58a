"""A land of blocks seen from within: by a player who acts in it, or a free camera.

Hills, trees, water and desert of cubes of one length, the unit of all distances; y is
up, and the land repeats every 128 blocks, twice as far as one sees. `simulate` is a
player, `film` a camera without one. Both fill an `Episode` with

- `camera` (T,4,4): camera to world; x right, y down, z ahead, of the intrinsics that
  `voxel_view` gives: a field of view of 70 degrees in height, square pixels
- `depth` (T,H,W): along the ray through a pixel's centre; 0 is sky, and what is over 64
- `ids` (T,H,W): the block there; k is row k-1 of `block`

and a state of

- `block` (15,): names
- `grid` (128,48,128): the block in each cell (x, y, z) at the start, as `ids` has them
- `edits` (E,5): int32; frame, x, y, z, block: before that frame the block was put into
  the cell (0 takes it out); x and z are those of the grid
- `position` (T,3), `yaw`, `pitch` (T,): of the camera, blocks and degrees; at yaw 0 it
  looks along z, yaw turns it right and pitch up
- `feet` (T,3) and `grounded` (T,), of a player: where it stands, whether on something
- `biome`, `hour` (): names; `path` (), of a film: orbit, flight or turn
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from data_pipelines.worlds import voxel_blocks as vb
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import check_size
from data_pipelines.worlds.voxel_actions import ACTIONS, replay, wander
from data_pipelines.worlds.voxel_cast import trace_jit
from data_pipelines.worlds.voxel_light import make_sky
from data_pipelines.worlds.voxel_paths import draw_path, start_player
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
    Told,
    path_words,
    player_words,
    scene_words,
)

_HANDS = (vb.BRICKS, vb.PLANKS, vb.MARBLE, vb.WOOL)  # what a player may place


class _Edit(NamedTuple):
    """A block put into a cell of the grid, in the place of another."""

    cell: tuple[int, int, int]
    block: int
    before: int


class _Land(NamedTuple):
    """What a seed gives, whoever looks at it."""

    land: Land
    hour: str
    scene: Scene
    rng: np.random.Generator


def simulate(
    seed: int,
    *,
    width: int,
    height: int,
    frames: int,
    fps: float,
    actions: Float[np.ndarray, "n a"] | None = None,
) -> Episode:
    """A clip by the eyes of a player who walks, digs and builds.

    Row k of `actions`, rows of `ACTIONS`, is done between frames k and k+1: what is dug
    or placed is in the middle of frame k. After the last row the player stands still.
    A varied script is drawn where none is given.

    Raises ValueError for a size out of range, or rows that are not of `ACTIONS` or are
    too many for the frames.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    start = _start(seed)
    rng, scene = start.rng, start.scene
    player = start_player(rng, start.land)
    hand = _HANDS[int(rng.integers(len(_HANDS)))]
    script = wander(rng, fps) if actions is None else replay(_checked(actions, frames))
    on_device = jax.device_put(scene)
    rows = np.zeros((frames, len(ACTIONS)), np.float32)
    stopped = np.zeros(frames, bool)
    pictures, players = [], []
    edits: list[_Edit | None] = []
    for i in range(frames):
        edit = None
        if i:
            rows[i] = script.send(bool(stopped[i - 1]) if i > 1 else None)
            edit = _use(scene, player, rows[i], hand)
            if edit is not None:
                scene = with_block(scene, edit.cell, edit.block)
                on_device = jax.device_put(scene)
            before, player = player, move(scene.blocks, player, rows[i], 1 / fps)
            stopped[i] = is_stopped(before, player, rows[i], 1 / fps)
        edits.append(edit)
        players.append(player)
        to_world = camera(player.eyes, player.yaw, player.pitch)
        seconds = np.float32(i / fps)
        pictures.append(
            render(on_device, to_world, seconds, height=height, width=width)
        )
    grounded = np.array([p.grounded for p in players])
    dug = [vb.BLOCKS[e.before] if e and e.block == vb.AIR else "" for e in edits]
    placed = [vb.BLOCKS[e.block] if e and e.block != vb.AIR else "" for e in edits]
    episode = _episode(
        start,
        pictures,
        fps,
        np.array([p.eyes for p in players]),
        np.array([p.yaw for p in players]),
        np.array([p.pitch for p in players]),
    )
    told = Told(rows, grounded, stopped, dug, placed)
    changed = [(i, *e.cell, e.block) for i, e in enumerate(edits) if e]
    caption = f"{episode.caption} {player_words(rng, told, fps)}"
    state = episode.state | {
        "edits": np.array(changed, np.int32).reshape(-1, 5),
        "feet": np.array([p.feet for p in players], np.float32),
        "grounded": grounded,
    }
    return episode._replace(caption=caption, actions=rows, state=state)


def film(seed: int, *, width: int, height: int, frames: int, fps: float) -> Episode:
    """A clip by a free camera that circles, flies or turns; its actions are 0.

    Raises ValueError for a size out of range.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    start = _start(seed)
    kind, path = draw_path(start.rng, start.land, frames, fps)
    scene = jax.device_put(start.scene)
    pictures = [
        render(
            scene,
            camera(path.position[i], path.yaw[i], path.pitch[i]),
            np.float32(i / fps),
            height=height,
            width=width,
        )
        for i in range(frames)
    ]
    episode = _episode(start, pictures, fps, *path)
    caption = episode.caption
    if frames > 1:
        caption += f" {path_words(start.rng, kind, path.yaw)}"
    return episode._replace(
        caption=caption, state=episode.state | {"path": np.array(kind)}
    )


def _start(seed: int) -> _Land:
    land, (hour, sky) = make_land(seed), make_sky(seed)
    rng = np.random.default_rng((seed, 0xB10C))
    return _Land(land, hour, make_scene(land.grid, sky), rng)


def _checked(actions: np.ndarray, frames: int) -> np.ndarray:
    count, wide = actions.shape
    if wide != len(ACTIONS) or count > frames - 1:
        raise ValueError(
            f"actions are {count} rows of {wide}, expected at most {frames - 1} (a row "
            f"between two of {frames} frames) of {len(ACTIONS)}: {', '.join(ACTIONS)}"
        )
    return actions


def _use(scene: Scene, player: Player, row: np.ndarray, hand: int) -> _Edit | None:
    """What the player's hand does: dig, else place; None where it reaches nothing."""
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
        # The lowest layer stays: under it the land has no bottom.
        kept = before == vb.WATER or cell[1] == 0
        return None if kept else _Edit(_in_grid(cell), vb.AIR, before)
    axis = int(hits.axis[0])
    cell[axis] -= int(np.sign(ahead[axis, 0]))
    if not 0 <= cell[1] < TALL or covers(player, (cell[0], cell[1], cell[2])):
        return None
    return _Edit(_in_grid(cell), hand, vb.AIR)


def _in_grid(cell: list[int]) -> tuple[int, int, int]:
    return cell[0] % SIZE, cell[1], cell[2] % SIZE


def _episode(
    start: _Land,
    pictures: list[Picture],
    fps: float,
    position: np.ndarray,
    yaw: np.ndarray,
    pitch: np.ndarray,
) -> Episode:
    """The clip of a camera that does nothing; of its caption, what is seen."""
    colour, depth, ids = (np.stack(part) for part in zip(*pictures, strict=True))
    poses = zip(position, yaw, pitch, strict=True)
    return Episode(
        video=colour,
        fps=fps,
        caption=scene_words(start.rng, start.land.biome, start.hour, ids),
        actions=np.zeros((len(ids), len(ACTIONS)), np.float32),
        camera=np.stack([camera(*pose) for pose in poses]),
        depth=depth,
        ids=ids,
        state={
            "block": np.array(vb.BLOCKS[1:]),
            "grid": start.scene.blocks,
            "edits": np.zeros((0, 5), np.int32),
            "position": position.astype(np.float32),
            "yaw": yaw.astype(np.float32),
            "pitch": pitch.astype(np.float32),
            "biome": np.array(start.land.biome),
            "hour": np.array(start.hour),
        },
    )

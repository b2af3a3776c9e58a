"""A world of coloured shapes that glide behind walls and come back into view."""

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.worlds import draw
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.occlusion_scene import (
    DIRECTIONS,
    HELD_OUT,
    WALLS,
    Scene,
    Triple,
    draw_scene,
)
from data_pipelines.worlds.occlusion_words import caption
from data_pipelines.worlds.sizes import check_size
from soraxla.core.errors import UserError


def simulate(
    seed: int,
    *,
    width: int,
    height: int,
    frames: int,
    fps: float,
    held_out: bool = False,
    triple: Triple | None = None,
) -> Episode:
    """Simulates one to three shapes, each gliding at a constant velocity.

    Half of the clips show one shape. Most have one or two walls; a moving shape passes
    behind them, out of view if the wall is wide enough, and is back before the end.
    Some shapes rest; in a picture, all do. Triples of `HELD_OUT` occur only on request.

    `ids` counts shapes; a wall is 0. The state, of N shapes and M walls:

    - `colour`, `shape`, `direction` (N,): names; `direction` is "" of a shape at rest
    - `radius` (N,): pixels
    - `position` (T,N,2): centres, x and y in pixels
    - `velocity` (N,2): pixels per second
    - `visible` (T,N): visible share of the shape
    - `walls` (M,4): left, top, right, bottom in pixels
    - `wall_colour`, `backdrop` (): names; `wall_colour` is "" without a wall

    Args:
      held_out: show one shape, of a triple in `HELD_OUT`, and one or two walls.
      triple: show one shape, of this triple, and one or two walls.

    Raises:
      UserError: the size cannot be drawn, the triple is unknown, both options are
        set, or one of them with a picture, which shows no direction.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    rng = draw.generator(seed, "occlusion")
    if held_out and triple is not None:
        raise UserError("held_out chooses the triple; give one of the two")
    if held_out:
        triple = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))]
    if triple is not None:
        _check_triple(triple, frames)
    scene = draw_scene(rng, width, height, frames, triple)
    canvas, ids, visible = _render(rng, scene, width, height)
    state = {
        "colour": np.array([shape.colour for shape in scene.shapes]),
        "shape": np.array([shape.shape for shape in scene.shapes]),
        "direction": np.array([shape.direction for shape in scene.shapes]),
        "radius": np.array([shape.radius for shape in scene.shapes]),
        "position": scene.position,
        "velocity": (scene.position[-1] - scene.position[0])
        * (fps / max(frames - 1, 1)),
        "visible": visible,
        "walls": scene.walls,
        "wall_colour": np.array(scene.wall_colour),
        "backdrop": np.array(scene.backdrop),
    }
    return draw.flat_episode(
        canvas, ids, fps=fps, caption=caption(rng, state), state=state
    )


def _check_triple(triple: Triple, frames: int) -> None:
    known = (draw.COLOURS, draw.SHAPES, DIRECTIONS)
    for word, words in zip(triple, known, strict=True):
        if word not in words:
            raise UserError(
                f"unknown {word!r} in {triple}, expected one of {', '.join(words)}"
            )
    if frames == 1:
        raise UserError(
            f"a picture shows no direction ({triple}); ask for more frames than 1"
        )


# --- The picture ------------------------------------------------------------------


def _render(
    rng: np.random.Generator, scene: Scene, width: int, height: int
) -> tuple[
    Float[np.ndarray, "t h w 3"],
    UInt8[np.ndarray, "t h w"],
    Float[np.ndarray, "t n"],
]:
    """Returns pixels, the shape at each, and the visible share of each shape."""
    frames = len(scene.position)
    x, y = draw.pixel_grid(width, height)
    back = draw.backdrop(rng, width, height, draw.BACKDROPS[scene.backdrop])
    canvas = np.repeat(back[None], frames, 0)
    layers = []
    for k, shape in enumerate(scene.shapes):
        place = scene.position[:, k, :, None, None].astype(np.float32)
        dx, dy = x - place[:, 0], y - place[:, 1]
        sdf, radius = draw.SHAPES[shape.shape], shape.radius
        distance = sdf(dx, dy, radius)
        drop = sdf(dx - 0.2 * radius, dy - 0.28 * radius, radius)
        draw.over(canvas, (0, 0, 0), 0.3 * draw.soft(drop, 0.5 * radius))
        light = 1.06 - 0.1 * dy / radius - 0.22 * draw.coverage(-1.2 - distance)
        layers.append(draw.coverage(distance))
        colour = np.asarray(draw.COLOURS[shape.colour], np.float32)
        draw.over(canvas, light[..., None] * colour, layers[-1])
    clear = np.ones((height, width), np.float32)
    for left, top, right, bottom in scene.walls:
        half_width, half_height = (right - left) / 2, (bottom - top) / 2
        dx, dy = x - (left + right) / 2, y - (top + bottom) / 2
        distance = draw.box(dx, dy, half_width, half_height)
        shadow = draw.box(dx - 2, dy - 2, half_width, half_height)
        draw.over(canvas, (0, 0, 0), 0.35 * draw.soft(shadow, 5.0)[None])
        face = _face(rng, WALLS[scene.wall_colour], distance, dx, dy)
        draw.over(canvas, face, draw.coverage(distance)[None])
        clear = clear * (1 - draw.coverage(distance))
    ids = np.zeros((frames, height, width), np.uint8)
    visible = np.empty(scene.position.shape[:2])
    clear = np.broadcast_to(clear, ids.shape)
    for k in reversed(range(len(layers))):
        seen = layers[k] * clear
        visible[:, k] = seen.sum((1, 2)) / layers[k].sum((1, 2))
        ids[seen > 0.5] = k + 1
        clear = clear * (1 - layers[k])
    return canvas, ids, visible


def _face(
    rng: np.random.Generator,
    colour: tuple[int, int, int],
    distance: draw.Plane,
    dx: draw.Plane,
    dy: draw.Plane,
) -> Float[np.ndarray, "h w 3"]:
    """Returns the lit face of a wall: slightly rough, sometimes of planks."""
    height, width = distance.shape
    light = 1 + 0.06 * draw.noise(rng, width, height, 20.0) - 0.004 * (dx + dy)
    if rng.random() < 0.4:  # planks
        pitch = rng.uniform(7, 12)
        across = dx if rng.random() < 0.5 else dy
        joint = np.abs((across / pitch) % 1 - 0.5) * pitch
        light = light * (1 - 0.22 * draw.coverage(joint - 0.6))
    light = light * (1 - 0.25 * draw.coverage(-1.3 - distance))
    return (light[..., None] * np.asarray(colour)).astype(np.float32)

"""Causes and effects: a blown candle, a broken glass, a treadmill, fish that leave."""

from collections.abc import Callable

import numpy as np

from data_pipelines.worlds import draw
from data_pipelines.worlds.candle import draw_candle
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.fish import draw_fish
from data_pipelines.worlds.glass import draw_glass
from data_pipelines.worlds.sizes import check_size
from data_pipelines.worlds.treadmill import draw_treadmill
from data_pipelines.worlds.words import one_of
from soraxla.core.errors import UserError

# (generator, width, height, frames, fps, failed) to a clip.
Scene = Callable[[np.random.Generator, int, int, int, float, bool], Episode]

SCENES: dict[str, Scene] = {
    "candle": draw_candle,
    "glass": draw_glass,
    "treadmill": draw_treadmill,
    "fish": draw_fish,
}


def simulate(
    seed: int,
    *,
    width: int,
    height: int,
    frames: int,
    fps: float,
    scene: str | None = None,
    failed: bool = False,
) -> Episode:
    """Simulates one of `SCENES`, all equally likely.

    The functions of the scenes describe their states. The state has in all clips

    - `scene` (): its name in `SCENES`
    - `object` (N,): names, in the order of `ids`

    Args:
      scene: show this scene.
      failed: plant the scene's failure, which trackers must find: the same clip, but
        its state says what is shown, and a flame lights itself again, a piece vanishes,
        a walker's feet slide, or the number of fish changes in open water.

    Raises:
      UserError: the size cannot be drawn, the scene is unknown, or a picture shall
        show a failure.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    drawn = one_of(draw.generator(seed, "effects"), list(SCENES))
    name = drawn if scene is None else scene
    if name not in SCENES:
        raise UserError(f"unknown scene {name!r}, expected one of {', '.join(SCENES)}")
    if failed and frames == 1:
        raise UserError("a picture shows no failure; ask for more frames than 1")
    rng = draw.generator(seed, name)
    clip = SCENES[name](rng, width, height, frames, fps, failed)
    return clip._replace(state={"scene": np.array(name)} | clip.state)

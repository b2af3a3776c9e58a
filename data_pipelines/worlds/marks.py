"""Permanent marks: a brush that leaves strokes, and food that is eaten bite by bite."""

from data_pipelines.worlds import draw
from data_pipelines.worlds.bites import eat
from data_pipelines.worlds.brush import paint
from data_pipelines.worlds.episode import Episode
from data_pipelines.worlds.sizes import check_size


def simulate(seed: int, *, width: int, height: int, frames: int, fps: float) -> Episode:
    """Simulates a tool that draws, or food that is eaten bite by bite.

    Marks are permanent: the marked pixels of a frame are among those of the next.
    A picture shows the end. The state has in all clips

    - `object` (N,): names, in the order of `ids`: "stroke" and the tool, or the food
    - `marked` (T,H,W): bool, pixels with a stroke, or bitten off

    with a tool also

    - `brush` (T,2): x and y of its tip, in pixels; `down` (T,): bool, it touches
    - `stroke` (S,): the kind of each stroke, such as "wave"; `radius` (): pixels
    - `colour`, `surface` (): names

    and with food, for K bites,

    - `bite_time` (K,): seconds from the first frame
    - `bite_position` (K,2): centres, in pixels; `bite_radius` (K,): pixels
    - `eaten` (T,): share of the food's pixels that was eaten

    Raises:
      UserError: the size cannot be drawn.
    """
    check_size(width=width, height=height, frames=frames, fps=fps)
    rng = draw.generator(seed, "marks")
    make = paint if rng.random() < 0.55 else eat
    canvas, ids, caption, state = make(rng, width, height, frames, fps)
    return draw.flat_episode(canvas, ids, fps=fps, caption=caption, state=state)

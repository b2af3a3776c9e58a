"""Food that is eaten bite by bite."""

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.worlds import draw
from data_pipelines.worlds.food import FOODS, Dish
from data_pipelines.worlds.words import NUMBERS, article, one_of

_TABLES = {
    "wooden table": (156, 112, 70),
    "white table": (232, 230, 226),
    "blue tablecloth": (92, 126, 176),
    "green tablecloth": (128, 168, 132),
}
_FORMS = (
    "{bites} taken out of {food}",
    "{bites} taken from {food} on a {table}",
    "someone eats {food}: {bites} taken",
    "{food} on a {table} is eaten; {bites} taken",
    "{food} gets smaller as {bites} taken",
    "on a {table}, {bites} taken out of {food}",
    "{food} loses {count}",
    "{food} is bitten {times}",
)
_WHOLE = ("{food} on a {table}", "a whole {plain}", "{food}, not bitten yet")
_PICTURES = (
    "{food} with {count} taken out of it",
    "{food} on a {table}, with {count} missing",
    "{food} that was bitten {times}",
)
TIMES = ("never", "once", "twice", "three times", "four times")


def eat(
    rng: np.random.Generator, width: int, height: int, frames: int, fps: float
) -> tuple[
    Float[np.ndarray, "t h w 3"],
    UInt8[np.ndarray, "t h w"],
    str,
    dict[str, np.ndarray],
]:
    """Returns canvas, ids (1 is the food), caption and state for `marks.simulate`."""
    name = "burger" if rng.random() < 0.3 else one_of(rng, list(FOODS))
    table = one_of(rng, list(_TABLES))
    size = 0.40 * min(width, height) * rng.uniform(0.85, 1.05)
    spare = np.array((width, height)) / 2 - 1.1 * size
    centre = np.array((width, height)) / 2 + rng.uniform(-1, 1, 2) * spare.clip(0)
    dish = FOODS[name](rng, width, height, tuple(centre), size)
    count = int(rng.integers(0 if frames == 1 else 1, min(4, max(frames - 1, 3)) + 1))
    if frames == 1:
        when = np.zeros(count, int)
    else:
        count = min(count, frames - 1)
        when = np.sort(1 + rng.choice(frames - 1, count, replace=False))
    bite = size * rng.uniform(0.34, 0.46)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.cumsum(
        rng.uniform(0.12, 0.24, count)
    )
    places = [_edge(dish, centre, angle) for angle in angles]
    holes = [
        _hole(dish, place, angle, bite)
        for place, angle in zip(places, angles, strict=True)
    ]
    back = draw.backdrop(rng, width, height, _TABLES[table])
    done = (when <= np.arange(frames)[:, None]).sum(1)  # bites taken by each frame
    stages = [_stage(back, dish, centre, size, holes[:k]) for k in range(count + 1)]
    canvas = np.stack([stages[k][0] for k in done])
    gone = np.stack([stages[k][1] for k in done])
    is_food = dish.alpha > 0.5
    state = {
        "object": np.array([name]),
        "marked": is_food & (gone > 0.5),
        "bite_time": when / fps,
        "bite_position": np.array(places).reshape(-1, 2),
        "bite_radius": np.full(count, bite),
        "eaten": (is_food & (gone > 0.5)).sum((1, 2)) / is_food.sum(),
        "table": np.array(table),
    }
    ids = (is_food & (gone <= 0.5)).astype(np.uint8)
    return canvas, ids, _caption(rng, state, frames == 1), state


def _caption(
    rng: np.random.Generator, state: dict[str, np.ndarray], picture: bool
) -> str:
    bites, name = len(state["bite_time"]), str(state["object"][0])
    count = f"{NUMBERS[bites]} bite{'s' * (bites > 1)}"
    forms = _FORMS if not picture else _PICTURES if bites else _WHOLE
    return one_of(rng, forms).format(
        bites=f"{count} {'are' if bites > 1 else 'is'}",
        count=count,
        times=TIMES[bites],
        food=article(name),
        plain=name,
        table=state["table"],
    )


def _edge(dish: Dish, centre: np.ndarray, angle: float) -> np.ndarray:
    """Returns the distance from the food's centre to its edge at an angle."""
    direction = np.array((np.cos(angle), np.sin(angle)))
    height, width = dish.alpha.shape
    steps = centre + np.arange(0, max(width, height), 0.5)[:, None] * direction
    column = steps[:, 0].astype(int).clip(0, width - 1)
    row = steps[:, 1].astype(int).clip(0, height - 1)
    inside = np.nonzero(dish.alpha[row, column] > 0.5)[0]
    return steps[inside[-1]]


def _hole(
    dish: Dish, place: np.ndarray, angle: float, bite: float
) -> Float[np.ndarray, "h w"]:
    """Returns the signed distance to a bite about `place`: a mouth with tooth marks."""
    x, y = draw.pixel_grid(dish.alpha.shape[1], dish.alpha.shape[0])
    dx, dy = x - np.float32(place[0]), y - np.float32(place[1])
    distance = draw.circle(dx, dy, 0.84 * bite)
    for tooth in angle + np.pi + np.linspace(-1.25, 1.25, 5):
        direction = np.array((np.cos(tooth), np.sin(tooth)))
        tx, ty = (0.8 * bite * direction).astype(np.float32)
        distance = np.minimum(distance, draw.circle(dx - tx, dy - ty, 0.27 * bite))
    return distance


def _stage(
    back: Float[np.ndarray, "h w 3"],
    dish: Dish,
    centre: np.ndarray,
    size: float,
    holes: list[np.ndarray],
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Returns the picture after some bites, and the removed share of each pixel."""
    x, y = draw.pixel_grid(back.shape[1], back.shape[0])
    canvas = back[None].copy()
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    plate = draw.circle(dx, dy, 1.22 * size)
    shadow = draw.circle(dx - 2, dy - 3, 1.22 * size)
    draw.over(canvas, (0, 0, 0), 0.3 * draw.soft(shadow, 6.0)[None])
    draw.over(canvas, (228, 228, 232), draw.coverage(plate)[None])
    rim = np.abs(draw.circle(dx, dy, 0.98 * size)) - 0.6
    draw.over(canvas, (196, 198, 206), 0.8 * draw.coverage(rim)[None])
    hole = np.full(back.shape[:2], 1e3, np.float32)
    for each in holes:
        hole = np.minimum(hole, each)
    gone = draw.coverage(hole)
    left = dish.alpha * (1 - gone)
    dark = np.roll(left, (2, 2), (0, 1))
    draw.over(canvas, (0, 0, 0), 0.3 * dark[None])
    draw.over(canvas, dish.colour, left[None])
    if dish.flesh is not None:
        inner = draw.coverage(hole - 0.07 * size)
        draw.over(canvas, dish.flesh, (left * inner)[None])
    return canvas[0], gone

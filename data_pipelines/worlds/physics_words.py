"""Captions of the world `physics`, written from its state."""

from collections.abc import Mapping

import numpy as np

from data_pipelines.worlds.words import NUMBERS, article, listed, one_of

_TIMES = ("", "once", "twice", "three times", "four times")
_STILL = 1.0  # pixels that a ball may move and still counts as at rest
_BOUNCY = 0.88  # lowest restitution of a "bouncy" ball


def caption(rng: np.random.Generator, state: Mapping[str, np.ndarray]) -> str:
    """Writes a sentence with the balls, their surroundings, and their collisions."""
    path = state["position"]
    moves = np.ptp(path, axis=0).max(-1) > _STILL
    if len(path) == 1 or not moves.any():
        return _picture(rng, state, _balls(rng, state["colour"]).rstrip(","))
    balls, many = _balls(rng, state["colour"][moves]), int(moves.sum()) > 1
    collide = any(str(met).startswith("ball") for met in state["bounce_against"])
    if state["gravity"]:
        return _falling(rng, state, balls, many, collide)
    text = _rolling(rng, state, balls, many, collide)
    if moves.all():
        return text
    rest = _balls(rng, state["colour"][~moves]).rstrip(",")
    return f"{text}; {rest} {'lies' if (~moves).sum() == 1 else 'lie'} still"


def _balls(rng: np.random.Generator, colours: np.ndarray) -> str:
    """Returns "a red ball and a blue ball", or "two balls, red and blue,"."""
    if len(colours) > 1 and rng.random() < 0.5:
        return f"{NUMBERS[len(colours)]} balls, {listed(list(map(str, colours)))},"
    return listed([article(f"{colour} ball") for colour in colours])


def _picture(
    rng: np.random.Generator, state: Mapping[str, np.ndarray], balls: str
) -> str:
    if state["gravity"]:
        forms = ("{balls} above a {floor} floor", "{balls} in the air", "{balls}")
    else:
        forms = ("{balls} on a {floor} billiard table", "{balls} on {floor} cloth")
    return one_of(rng, forms).format(balls=balls, floor=state["floor"])


def _falling(
    rng: np.random.Generator,
    state: Mapping[str, np.ndarray],
    balls: str,
    many: bool,
    collide: bool,
) -> str:
    """Describes a side view."""
    floor = f"{state['floor']} floor"
    bounces = int((state["bounce_against"] == "floor").sum())
    if not bounces:
        forms = ("{balls} {fall}", "{balls} {fall} toward a {floor}")
        text = one_of(rng, forms)
    elif many:
        text = one_of(
            rng,
            (
                "{balls} {fall} and bounce on a {floor}",
                "{balls} bounce in a box",
                "under gravity, {balls} {fall} onto a {floor}",
                "{balls} {fall} and hit a {floor}",
            ),
        )
        text += one_of(rng, (" and collide", " and hit each other")) if collide else ""
    else:
        text = one_of(
            rng,
            (
                "{balls} {fall} and bounces {times}",
                "{balls} {fall} and bounces {times} on a {floor}",
                "{balls} bounces {times} on a {floor}",
                "{balls} {fall} onto a {floor} and jumps up again",
                "on a {floor}, {balls} bounces {times}",
                "gravity pulls {balls} down to a {floor}, where it bounces {times}",
            ),
        )
        if state["restitution"] > _BOUNCY and rng.random() < 0.5:
            colour = state["colour"][0]
            balls = balls.replace(article(str(colour)), f"a bouncy {colour}")
    fall = one_of(rng, ("fall", "drop") if many else ("falls", "drops"))
    times = _TIMES[bounces] if bounces < len(_TIMES) else "again and again"
    return text.format(balls=balls, fall=fall, floor=floor, times=times)


def _rolling(
    rng: np.random.Generator,
    state: Mapping[str, np.ndarray],
    balls: str,
    many: bool,
    collide: bool,
) -> str:
    """Describes a view from above."""
    table = f"{state['floor']} billiard table"
    rolls = one_of(rng, ("roll", "move") if many else ("rolls", "moves"))
    cushion = any("ball" not in str(met) for met in state["bounce_against"])
    text = one_of(
        rng,
        (
            "{balls} {rolls} on a {table}",
            "{balls} {rolls} over the cloth of a {table}",
            "seen from above, {balls} {rolls} on a {table}",
            "on a {table}, {balls} {rolls}",
        ),
    )
    ends = ["{bounce} off the cushions"] * cushion
    ends += [one_of(rng, ("collide", "hit each other"))] * (collide and many)
    bounce = one_of(rng, ("bounce", "rebound")) + "s" * (not many)
    return listed([text, *ends]).format(
        balls=balls, rolls=rolls, table=table, bounce=bounce
    )

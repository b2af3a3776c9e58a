"""Balls in a box, integrated exactly from one bounce to the next.

Between bounces every ball falls freely, so all have the same acceleration: two balls
approach each other along a straight line at a constant velocity, and the instant of
each bounce is the root of a quadratic.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Normal speeds in pixels per second: below the first, a bounce loses no energy; the
# floor raises lower ones to the second. So a ball at rest hops by some hundredths of a
# pixel, instead of infinitely many bounces in a finite time.
SLOW, SLOWEST = 4.0, 0.5

SIDES = ("left wall", "right wall", "ceiling", "floor")


class Balls(NamedTuple):
    """N balls at the start, in pixels and pixels per second, y down."""

    position: Float[np.ndarray, "n 2"]
    velocity: Float[np.ndarray, "n 2"]
    radius: Float[np.ndarray, "n"]
    box: tuple[float, float, float, float]  # left, top, right, bottom
    gravity: float
    restitution: float

    @property
    def mass(self) -> Float[np.ndarray, "n"]:
        """Masses of spheres of one density."""
        return self.radius**3


class Motion(NamedTuple):
    """Positions of balls at each requested time, and K bounces faster than `SLOW`."""

    position: Float[np.ndarray, "t n 2"]
    velocity: Float[np.ndarray, "t n 2"]
    bounce_time: Float[np.ndarray, "k"]  # seconds
    bounce_ball: list[int]
    bounce_against: list[str]  # one of SIDES, or "ball k"


class _Ball:
    __slots__ = ("mass", "r", "vx", "vy", "x", "y")

    def __init__(self, place: np.ndarray, velocity: np.ndarray, r: float, mass: float):
        self.x, self.y = map(float, place)
        self.vx, self.vy = map(float, velocity)
        self.r, self.mass = float(r), float(mass)

    def move(self, seconds: float, gravity: float) -> None:
        self.x += self.vx * seconds
        self.y += (self.vy + 0.5 * gravity * seconds) * seconds
        self.vy += gravity * seconds


def trajectory(start: Balls, times: Float[np.ndarray, "t"]) -> Motion:
    """Returns the balls at `times` (seconds, ascending from 0)."""
    balls = [
        _Ball(*each)
        for each in zip(
            start.position, start.velocity, start.radius, start.mass, strict=True
        )
    ]
    now, gravity = 0.0, start.gravity
    places, bounces = [], []
    wait, hit = _next(balls, start)
    for time in map(float, times):
        while now + wait <= time:
            for ball in balls:
                ball.move(wait, gravity)
            now += wait
            if _bounce(balls, hit, start.restitution) > SLOW:
                against = SIDES[hit[1]] if hit[2] else f"ball {hit[1]}"
                bounces.append((now, hit[0], against))
            wait, hit = _next(balls, start)
        for ball in balls:
            ball.move(time - now, gravity)
        wait, now = wait - (time - now), time
        places.append([(ball.x, ball.y, ball.vx, ball.vy) for ball in balls])
    path = np.array(places)
    return Motion(
        position=path[..., :2],
        velocity=path[..., 2:],
        bounce_time=np.array([bounce[0] for bounce in bounces], float),
        bounce_ball=[bounce[1] for bounce in bounces],
        bounce_against=[bounce[2] for bounce in bounces],
    )


_Hit = tuple[int, int, bool]  # a ball, and a side (True) or another ball (False)


def _next(balls: list[_Ball], start: Balls) -> tuple[float, _Hit]:
    """Returns the seconds to the next bounce, and that bounce."""
    left, top, right, bottom = start.box
    soonest, hit = math.inf, (0, 0, True)
    for i, ball in enumerate(balls):
        if ball.vx:
            gap = right - ball.r - ball.x if ball.vx > 0 else left + ball.r - ball.x
            if (wait := max(gap / ball.vx, 0.0)) < soonest:
                soonest, hit = wait, (i, int(ball.vx > 0), True)
        if (wait := _rises(ball, top, start.gravity)) < soonest:
            soonest, hit = wait, (i, 2, True)
        if (wait := _falls(ball, bottom, start.gravity)) < soonest:
            soonest, hit = wait, (i, 3, True)
        for j in range(i):
            if (wait := _meets(ball, balls[j])) < soonest:
                soonest, hit = wait, (i, j, False)
    return soonest, hit


def _rises(ball: _Ball, top: float, gravity: float) -> float:
    """Returns the seconds until a rising ball reaches the ceiling."""
    gap = ball.y - ball.r - top
    under = ball.vy * ball.vy - 2 * gravity * gap
    if ball.vy >= 0 or under < 0:
        return math.inf
    return max(2 * gap / (math.sqrt(under) - ball.vy), 0.0)


def _falls(ball: _Ball, bottom: float, gravity: float) -> float:
    """Returns the seconds until a ball reaches the floor."""
    gap = max(bottom - ball.r - ball.y, 0.0)
    if not gravity:
        return gap / ball.vy if ball.vy > 0 else math.inf
    root = math.sqrt(ball.vy * ball.vy + 2 * gravity * gap)
    return (root - ball.vy) / gravity


def _meets(a: _Ball, b: _Ball) -> float:
    """Returns the seconds until two balls touch; gravity, equal for both, cancels."""
    x, y, vx, vy = a.x - b.x, a.y - b.y, a.vx - b.vx, a.vy - b.vy
    closing = x * vx + y * vy
    if closing >= 0:
        return math.inf
    gap = x * x + y * y - (a.r + b.r) ** 2
    under = closing * closing - (vx * vx + vy * vy) * gap
    if under < 0:
        return math.inf
    return max(gap / (math.sqrt(under) - closing), 0.0)


def _bounce(balls: list[_Ball], hit: _Hit, restitution: float) -> float:
    """Reflects the velocities; returns the speed of the impact."""
    ball = balls[hit[0]]
    if hit[2]:
        sideways = hit[1] < 2
        speed = abs(ball.vx if sideways else ball.vy)
        kept = restitution if speed > SLOW else 1.0
        if sideways:
            ball.vx = -kept * ball.vx
        elif hit[1] == 3:
            ball.vy = -max(kept * ball.vy, SLOWEST)
        else:
            ball.vy = -kept * ball.vy
        return speed
    other = balls[hit[1]]
    x, y = ball.x - other.x, ball.y - other.y
    apart = math.hypot(x, y)
    x, y = x / apart, y / apart
    speed = (other.vx - ball.vx) * x + (other.vy - ball.vy) * y
    kept = restitution if speed > SLOW else 1.0
    push = (1 + kept) * speed / (1 / ball.mass + 1 / other.mass)
    ball.vx += push / ball.mass * x
    ball.vy += push / ball.mass * y
    other.vx -= push / other.mass * x
    other.vy -= push / other.mass * y
    return speed

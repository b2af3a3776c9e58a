"""The law of the loss by parameters and tokens (arXiv 2203.15556), and its fit."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from soraxla.core.errors import UserError

LEAST = 4  # sizes, and computes, of a fit
_HUBER = 1e-3  # of the logarithm of the loss, as published
_EXACT = {"ftol": 1e-13, "gtol": 1e-9, "maxiter": 2000, "maxfun": 4000}


class Law(NamedTuple):
    """L = E + A / N^a + B / D^b, for N parameters and D tokens."""

    E: float
    A: float
    a: float
    B: float
    b: float


def predicted(
    law: Law, parameters: Float[np.ndarray, " n"], tokens: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Returns the losses of the law."""
    return law.E + law.A * parameters**-law.a + law.B * tokens**-law.b


def fit(
    parameters: Float[np.ndarray, " n"],
    tokens: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, " n"],
    start: Law | None = None,
) -> Law:
    """Returns the law with the least Huber loss of the logarithms, by L-BFGS.

    Args:
        start: a law near the best one; None tries many.

    Raises:
        UserError: fewer than four sizes or four numbers of tokens of each.
    """
    sizes, counts = np.unique(parameters, return_counts=True)
    if len(sizes) < LEAST or counts.min() < LEAST:
        raise UserError(
            f"{len(sizes)} sizes at {counts.min()} computes or more, expected at least "
            f"{LEAST} of both for a fit; add some"
        )
    logs = np.log(parameters), np.log(tokens), np.log(losses)
    begins = _starts(*logs) if start is None else [_packed(start)]
    found = [
        minimize(_error, begin, args=logs, jac=True, method="L-BFGS-B", options=_EXACT)
        for begin in begins
    ]
    e, log_a, a, log_b, b = min(found, key=lambda each: each.fun).x
    return Law(*map(float, (np.exp(e), np.exp(log_a), a, np.exp(log_b), b)))


def _packed(law: Law) -> np.ndarray:
    return np.array([np.log(law.E), np.log(law.A), law.a, np.log(law.B), law.b])


def _starts(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> list[np.ndarray]:
    """Returns starts at which each term has a share of the middle loss."""
    at_n, at_d, loss = np.median(n), np.median(d), np.median(losses)
    starts = []
    powers = (0.3, 0.8)
    for share, a, b in itertools.product((0.3, 0.8), powers, powers):
        rest = loss + np.log((1 - share) / 2)
        e = loss + np.log(share)
        starts.append(np.array([e, rest + a * at_n, a, rest + b * at_d, b]))
    return starts


def _error(
    x: np.ndarray, n: np.ndarray, d: np.ndarray, losses: np.ndarray
) -> tuple[float, np.ndarray]:
    """Returns the sum of Huber losses, over the square of their bend, and its slope."""
    e, log_a, a, log_b, b = x
    terms = np.stack([np.full_like(n, e), log_a - a * n, log_b - b * d])
    top = terms.max(axis=0)
    total = top + np.log(np.exp(terms - top).sum(axis=0))
    residual = total - losses
    u = residual / _HUBER
    error = np.where(np.abs(u) <= 1, u**2 / 2, np.abs(u) - 0.5).sum()
    slope = np.clip(u, -1, 1) / _HUBER
    of_e, of_a, of_b = slope * np.exp(terms - total)
    sums = (of_e, of_a, -of_a * n, of_b, -of_b * d)
    return float(error), np.array([each.sum() for each in sums])

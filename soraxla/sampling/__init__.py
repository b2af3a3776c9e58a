"""Sampling: guidance → solver → loop, from noise to clean latents."""

from soraxla.sampling.grid import Grid
from soraxla.sampling.guidance import (
    Condition,
    Denoise,
    Guidance,
    Nothing,
    guided,
)
from soraxla.sampling.loop import sample
from soraxla.sampling.solvers import (
    SOLVERS,
    Euler,
    EulerAncestral,
    Heun,
    Solver,
    Stop,
    UniPC,
    WanEuler,
)

__all__ = [
    "SOLVERS",
    "Condition",
    "Denoise",
    "Euler",
    "EulerAncestral",
    "Grid",
    "Guidance",
    "Heun",
    "Nothing",
    "Solver",
    "Stop",
    "UniPC",
    "WanEuler",
    "guided",
    "sample",
]

"""Sampling: guidance → solver → loop, from noise to clean latents."""

from soraxla.sampling.grid import Grid
from soraxla.sampling.guidance import Condition, Denoise, guided
from soraxla.sampling.loop import sample
from soraxla.sampling.solvers import Euler, Heun, Solver, Stop, UniPC, WanEuler

__all__ = [
    "Condition",
    "Denoise",
    "Euler",
    "Grid",
    "Heun",
    "Solver",
    "Stop",
    "UniPC",
    "WanEuler",
    "guided",
    "sample",
]

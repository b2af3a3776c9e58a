"""Sampling: guidance → solver → loop, from noise to clean latents."""

from soraxla.sampling.guidance import ConditionalDenoise, Denoise, guided
from soraxla.sampling.loop import sample, time_grid
from soraxla.sampling.solvers import Euler, Heun, Solver

__all__ = [
    "ConditionalDenoise",
    "Denoise",
    "Euler",
    "Heun",
    "Solver",
    "guided",
    "sample",
    "time_grid",
]

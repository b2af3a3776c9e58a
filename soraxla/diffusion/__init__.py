"""Diffusion: schedule → process → loss, each a few pure functions."""

from soraxla.diffusion.loss import packed_mse
from soraxla.diffusion.process import (
    PREDICTIONS,
    Prediction,
    Process,
    Purpose,
    ScheduleName,
    noise,
    sample_keys,
    token_times,
)
from soraxla.diffusion.schedule import (
    ALPHA_MIN,
    SCHEDULES,
    DDPMCosine,
    DDPMLinear,
    RectifiedFlow,
    Schedule,
    sample_times,
    shift_time,
    time_shift,
)

__all__ = [
    "ALPHA_MIN",
    "PREDICTIONS",
    "SCHEDULES",
    "DDPMCosine",
    "DDPMLinear",
    "Prediction",
    "Process",
    "Purpose",
    "RectifiedFlow",
    "Schedule",
    "ScheduleName",
    "noise",
    "packed_mse",
    "sample_keys",
    "sample_times",
    "shift_time",
    "time_shift",
    "token_times",
]

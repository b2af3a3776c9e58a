"""The diffusion transformer: `init`, `apply` and related functions."""

from soraxla.models.dit.model import (
    DiT,
    apply,
    capture,
    cast_kernels,
    denoiser,
    embed,
    encode_text,
    forecast,
    init,
    run_blocks,
    unembed,
)
from soraxla.models.dit.module import Text
from soraxla.models.dit.sharding import RULES

__all__ = [
    "RULES",
    "DiT",
    "Text",
    "apply",
    "capture",
    "cast_kernels",
    "denoiser",
    "embed",
    "encode_text",
    "forecast",
    "init",
    "run_blocks",
    "unembed",
]

"""The diffusion transformer: `init`, `apply` and the functions beside them."""

from soraxla.models.dit.model import (
    DiT,
    apply,
    as_computed,
    denoiser,
    encode_text,
    forecast,
    init,
)
from soraxla.models.dit.sharding import RULES

__all__ = [
    "RULES",
    "DiT",
    "apply",
    "as_computed",
    "denoiser",
    "encode_text",
    "forecast",
    "init",
]

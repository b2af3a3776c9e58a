"""The diffusion transformer: `init`, `apply` and the functions beside them."""

from soraxla.models.dit.model import (
    RULES,
    DiT,
    apply,
    as_computed,
    denoiser,
    encode_text,
    forecast,
    init,
)

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

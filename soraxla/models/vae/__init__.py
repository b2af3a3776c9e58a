"""The causal video VAE: `encode`, `decode` and their streaming forms."""

from soraxla.models.vae.config import VAEConfig
from soraxla.models.vae.model import (
    check_clip,
    decode,
    decode_chunk,
    decode_unclipped,
    denormalise,
    encode,
    encode_chunk,
    init,
    normalise,
)

__all__ = [
    "VAEConfig",
    "check_clip",
    "decode",
    "decode_chunk",
    "decode_unclipped",
    "denormalise",
    "encode",
    "encode_chunk",
    "init",
    "normalise",
]

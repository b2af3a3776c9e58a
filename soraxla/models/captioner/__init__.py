"""The captioner: `init`, `apply` and related functions."""

from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.captioner.model import apply, frame_memory, init, rules, see, write

__all__ = [
    "CaptionerConfig",
    "apply",
    "frame_memory",
    "init",
    "rules",
    "see",
    "write",
]

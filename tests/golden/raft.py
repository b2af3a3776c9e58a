"""Weights and frames of `raft.npz`, drawn alike by both sides of the comparison."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.golden.seeded import tensors
from tests.golden.vision import image

FILE = Path(__file__).with_name("raft.npz")
DIVISOR = 16

# Parts of torchvision's names, and those of the published weights.
_RENAMED = (
    (r"feature_encoder", "fnet"),
    (r"context_encoder", "cnet"),
    (r"^(.net)\.convnormrelu\.0", r"\1.conv1"),
    (r"^(.net)\.convnormrelu\.1", r"\1.norm1"),
    (r"^(.net)\.conv\.", r"\1.conv2."),
    (r"convnormrelu(\d)\.0", r"conv\1"),
    (r"convnormrelu(\d)\.1", r"norm\1"),
    (r"motion_encoder\.convcorr(\d)\.0", r"encoder.convc\1"),
    (r"motion_encoder\.convflow(\d)\.0", r"encoder.convf\1"),
    (r"motion_encoder\.conv\.0", "encoder.conv"),
    (r"recurrent_block\.convgru(\d)\.conv(\w)", r"gru.conv\2\1"),
    (r"mask_predictor\.convrelu\.0", "update_block.mask.0"),
    (r"mask_predictor\.conv\.", "update_block.mask.2."),
)


def published(name: str) -> str:
    """Returns the published name of a tensor of torchvision's."""
    for pattern, new in _RENAMED:
        name = re.sub(pattern, new, name)
    return name


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns tensors that keep the size of inputs, with small flows."""
    found = tensors(shapes, 7)
    for name, value in found.items():
        if name.endswith("running_var"):
            found[name] = 0.5 + np.abs(value)
        elif name.endswith("running_mean"):
            found[name] = 0.2 * value
        elif value.ndim == 1 and "weight" in name:  # of a batch norm
            found[name] = 1 + 0.1 * value
        elif value.ndim > 1:
            found[name] = np.float32(1.4) * value  # ReLUs halve squares
    return found


def frames() -> np.ndarray:
    """Returns three frames of 128 × 144 that move by a few pixels, uint8."""
    whole = image(160, 176, 3)
    return np.stack([whole[i : i + 128, 2 * i : 2 * i + 144] for i in (0, 3, 9)])

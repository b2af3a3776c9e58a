"""Towers of CLIP (arXiv 2103.00020) and DINOv2 (arXiv 2304.07193) over single frames.

A frame is a square of one size, so a row of packed frames is a batch of frames.
"""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from data_pipelines.view import ViewConfig
from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.models.captioner.config import CaptionerConfig
from soraxla.models.text import clip_vision
from soraxla.models.text.clip import WHERE
from soraxla.models.text.clip_vision import CLIPVisionConfig
from soraxla.models.text.folder import read_config
from soraxla.models.vision import dinov2
from soraxla.models.vision.dinov2 import Dinov2Config
from soraxla.models.vision.resize import IMAGENET_MEAN, IMAGENET_STD

Tower = CLIPVisionConfig | Dinov2Config


def width(cfg: CaptionerConfig) -> int:
    """Returns the numbers of a token that the captioner's own layers get."""
    if cfg.pretrained is None:
        return 3 * cfg.view.window**2
    return cfg.pretrained.hidden_size


def is_tower(folder: Path) -> bool:
    """Returns whether a folder holds CLIP or DINOv2 from the Hugging Face hub."""
    try:
        read_config(folder, _kinds())
    except (UserError, OSError):
        return False
    return True


def load(folder: Path) -> tuple[PyTree, Tower]:
    """Loads the tower of a local Hugging Face folder, in fp32.

    Raises:
        UserError: it is neither CLIP nor DINOv2, or it is damaged.
    """
    kind = read_config(folder, _kinds())["model_type"]
    if kind == "dinov2":
        return dinov2.load(folder)
    return clip_vision.load(folder, "float32")


def _kinds() -> dict[str, str]:
    clip = {name: WHERE for name in ("clip", "clip_vision_model")}
    return {"dinov2": dinov2.WHERE, **clip}


def init(key: jax.Array, cfg: Tower) -> PyTree:
    """Returns random parameters of a tower, for their shapes."""
    if isinstance(cfg, CLIPVisionConfig):
        return clip_vision.init(key, cfg)
    shapes = dinov2.shapes(cfg)
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    pairs = zip(keys, leaves, strict=True)
    made = [0.02 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in pairs]
    return jax.tree.unflatten(structure, made)


def view_of(cfg: Tower, frames: int) -> ViewConfig:
    """Returns the view that a tower was trained on."""
    patch = cfg.patch_size
    side = dinov2.SIDE if isinstance(cfg, Dinov2Config) else cfg.image_size
    return ViewConfig(
        frames=frames, side=side // patch * patch, patch=patch, square=True
    )


def states(
    params: PyTree, cfg: Tower, patches: Float[Array, "b l p"]
) -> Float[Array, "b l d"]:
    """Returns each patch's state of the tower.

    Args:
        patches: of packed frames, pixels in −1…1. A row is whole frames.
    """
    b, length, numbers = patches.shape
    each = (view_of(cfg, 1).side // cfg.patch_size) ** 2
    pad = -length % each  # of a row's end, which holds no frame
    x = jnp.pad(patches, ((0, 0), (0, pad), (0, 0)))
    x = x.reshape(-1, each, 3, numbers // 3)
    is_clip = isinstance(cfg, CLIPVisionConfig)
    mean: Any = clip_vision.MEAN if is_clip else IMAGENET_MEAN
    std: Any = clip_vision.STD if is_clip else IMAGENET_STD
    x = ((x + 1.0) / 2.0 - mean[None, None, :, None]) / std[None, None, :, None]
    x = x.reshape(-1, each, numbers)
    if isinstance(cfg, CLIPVisionConfig):
        found = clip_vision.patch_states(params, cfg, x)
    else:
        side = math.isqrt(each)
        found = dinov2.patch_states(params, cfg, x, (side, side))
    return found.reshape(b, length + pad, -1)[:, :length]

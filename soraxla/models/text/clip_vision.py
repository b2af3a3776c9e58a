"""The image tower of CLIP (arXiv 2103.00020), a vision transformer, for evaluation.

It has the text tower's blocks, over patches and one class token, which sees all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, PyTree, UInt8
from PIL import Image

from soraxla.core.types import Array
from soraxla.models.dit.layers import AffineLayerNorm
from soraxla.models.text import folder as hf
from soraxla.models.text.clip import (
    Block,
    TowerConfig,
    block_names,
    project,
    tower_settings,
)
from soraxla.models.text.layers import dense, scan_blocks

# Statistics of the training pixels, 0…1.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(TowerConfig):
    """The settings of the image tower; `image_size` and `patch_size` in pixels."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32


def init(key: jax.Array, cfg: CLIPVisionConfig) -> PyTree:
    """Returns random parameters."""
    pixels = jnp.zeros((1, cfg.image_size, cfg.image_size, 3))
    return VisionTower(cfg).init(key, pixels)["params"]


def embed_images(
    params: PyTree, cfg: CLIPVisionConfig, pixels: Float[Array, "b h w 3"]
) -> Float[Array, "b p"]:
    """Returns images in the space shared with texts, not normalised.

    Args:
        pixels: the result of `preprocess`, h = w = `cfg.image_size`.
    """
    return VisionTower(cfg).apply({"params": params}, pixels)  # pyright: ignore


def load(folder: Path, dtype: str) -> tuple[PyTree, CLIPVisionConfig]:
    """Loads parameters and settings of the image tower of a local CLIP folder.

    Raises:
        UserError: as `folder.read_config` and `folder.load_params`.
    """
    cfg = tower_settings(CLIPVisionConfig, folder, dtype, projected=True)
    abstract = jax.eval_shape(lambda: init(jax.random.key(0), cfg))
    names = block_names() | {
        "patches": "embeddings.patch_embedding",
        "class_token": "embeddings.class_embedding",
        "places": "embeddings.position_embedding.weight",
        "pre_norm": "pre_layrnorm",  # the files' spelling
        "post_norm": "post_layernorm",
        "projection": "visual_projection",
    }

    def canonical(name: str) -> str | None:
        other = ("text_model.", "text_projection.", "logit_scale")
        if name.startswith(other) or name.endswith("embeddings.position_ids"):
            return None
        return name.removeprefix("vision_model.")

    return hf.load_params(folder, abstract, names, canonical), cfg


def preprocess(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], size: int
) -> Float[np.ndarray, "b {size} {size} 3"]:
    """Scales the shorter side to `size` (bicubic), crops the centre and normalises."""
    return np.stack([_preprocess(image, size) for image in images])


def _preprocess(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    short = min(height, width)
    height, width = int(size * height / short), int(size * width / short)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    pixels = np.asarray(picture)[top : top + size, left : left + size]
    return (pixels.astype(np.float32) / 255 - _MEAN) / _STD


class VisionTower(nn.Module):
    """Patches, norm and blocks; the class token's state is normed and projected."""

    cfg: CLIPVisionConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b p"]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        b, side, patch = (
            pixels.shape[0],
            cfg.image_size // cfg.patch_size,
            cfg.patch_size,
        )
        x = pixels[:, : side * patch, : side * patch]
        x = x.reshape(b, side, patch, side, patch, 3).transpose(0, 1, 3, 5, 2, 4)
        x = x.reshape(b, side * side, 3 * patch * patch)  # features (c, ph, pw)
        x = dense(cfg.hidden_size, dtype, use_bias=False, name="patches")(x)
        small = nn.initializers.normal(0.02)
        first = self.param("class_token", small, (cfg.hidden_size,))
        places = self.param("places", small, (side * side + 1, cfg.hidden_size))
        first = jnp.broadcast_to(first[None, None, :], (b, 1, cfg.hidden_size))
        x = jnp.concatenate([first, x.astype(jnp.float32)], axis=1) + places[None]
        x = AffineLayerNorm(cfg.layer_norm_eps, name="pre_norm")(x)
        bias = jnp.zeros((1, 1, x.shape[1], x.shape[1]))
        x, _ = scan_blocks(Block, cfg.num_hidden_layers)(cfg, name="blocks")(x, bias)
        x = AffineLayerNorm(cfg.layer_norm_eps, name="post_norm")(x[:, :1])[:, 0]
        return project(x, cfg)

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
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(TowerConfig):
    """The settings of the image tower.

    Attributes:
        image_size: pixels of an image's side.
        patch_size: pixels of a token's side.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32

    @property
    def grid(self) -> int:
        """The patches along a side."""
        return self.image_size // self.patch_size


def init(key: jax.Array, cfg: CLIPVisionConfig) -> PyTree:
    """Returns random parameters."""
    patches = jnp.zeros((1, cfg.grid**2, 3 * cfg.patch_size**2))
    return VisionTower(cfg).init(key, patches)["params"]


def embed_images(
    params: PyTree, cfg: CLIPVisionConfig, pixels: Float[Array, "b h w 3"]
) -> Float[Array, "b p"]:
    """Returns images in the space shared with texts, not normalised.

    Args:
        pixels: the result of `preprocess`, h = w = `cfg.image_size`.
    """
    side, patch = cfg.grid, cfg.patch_size
    x = pixels[:, : side * patch, : side * patch]
    x = x.reshape(-1, side, patch, side, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    x = x.reshape(-1, side * side, 3 * patch * patch)
    return VisionTower(cfg).apply({"params": params}, x)[0]  # pyright: ignore


def patch_states(
    params: PyTree, cfg: CLIPVisionConfig, patches: Float[Array, "b n p"]
) -> Float[Array, "b n d"]:
    """Returns the last state of each patch of whole images, normed.

    Args:
        patches: normalised pixels, (3, patch, patch) numbers each, by rows.
    """
    return VisionTower(cfg).apply({"params": params}, patches)[1]  # pyright: ignore


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
    return (pixels.astype(np.float32) / 255 - MEAN) / STD


class VisionTower(nn.Module):
    """Patches, norm and blocks; the class token's state is normed and projected."""

    cfg: CLIPVisionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n i"]
    ) -> tuple[Float[Array, "b p"], Float[Array, "b n d"]]:
        """Returns the images in the shared space, and the states of their patches."""
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        x = dense(cfg.hidden_size, dtype, use_bias=False, name="patches")(x)
        small = nn.initializers.normal(0.02)
        first = self.param("class_token", small, (cfg.hidden_size,))
        places = self.param("places", small, (cfg.grid**2 + 1, cfg.hidden_size))
        first = jnp.broadcast_to(first[None, None, :], (x.shape[0], 1, cfg.hidden_size))
        x = jnp.concatenate([first, x.astype(jnp.float32)], axis=1) + places[None]
        x = AffineLayerNorm(cfg.layer_norm_eps, name="pre_norm")(x)
        bias = jnp.zeros((1, 1, x.shape[1], x.shape[1]))
        x, _ = scan_blocks(Block, cfg.num_hidden_layers)(cfg, name="blocks")(x, bias)
        x = AffineLayerNorm(cfg.layer_norm_eps, name="post_norm")(x)
        return project(x[:, 0], cfg), x[:, 1:]

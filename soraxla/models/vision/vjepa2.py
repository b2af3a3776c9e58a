"""The encoder of V-JEPA 2 (arXiv 2506.09985), a vision transformer of videos.

Queries and keys are rotated by time, height and width. Each third of a head's channels
has the angles of one of them; what is left of a head is not rotated.
"""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, UInt8
from PIL import Image

from soraxla.core.types import Array
from soraxla.models.text import folder as hf
from soraxla.models.vision import vit
from soraxla.models.vision.resize import centre_crops

WHERE = "facebook/vjepa2-vitl-fpc64-256"
FRAMES = 16  # of a video; rotations serve any number


@dataclass(frozen=True, kw_only=True)
class VJEPA2Config(vit.ViTConfig):
    """The settings; sizes in pixels, `tubelet_size` in frames of a token."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    mlp_ratio: float = 4.0
    crop_size: int = 256
    patch_size: int = 16
    tubelet_size: int = 2
    qkv_bias: bool = True


def embed_video(
    params: PyTree, cfg: VJEPA2Config, pixels: Float[Array, "b t h w 3"]
) -> Float[Array, "b d"]:
    """Returns the mean of the tokens after the final norm.

    Args:
        pixels: the result of `preprocess` for each video; t is a multiple of
            `cfg.tubelet_size`.
    """
    x = vit.tubelets(pixels, cfg.tubelet_size, cfg.patch_size)
    x = vit.dense(x, params["patches"])
    _, frames, height, width, _ = pixels.shape
    grid = (
        frames // cfg.tubelet_size,
        height // cfg.patch_size,
        width // cfg.patch_size,
    )
    cos, sin = _angles(grid, cfg.hidden_size // cfg.num_attention_heads)

    def rotate(q: Array) -> Array:
        pairs = q.reshape(*q.shape[:-1], -1, 2)
        turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(q.shape)
        return q * cos + turned * sin

    x = vit.blocks(x, params["blocks"], cfg, rotate)
    x = vit.norm(x, params["final_norm"], cfg.layer_norm_eps)
    return jnp.mean(x, axis=1)


def _angles(grid: tuple[int, int, int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines and sines (1, n, 1, width) of each channel's angle.

    Angles repeat in halves of an axis's channels, while pairs of neighbouring channels
    are rotated; so the network was trained.
    """
    part = 2 * (width // 3 // 2)  # channels of an axis
    rates = 10000.0 ** -(np.arange(part // 2) / (part / 2))
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1)
    angles = places.reshape(-1, 3, 1) * np.concatenate([rates, rates])
    angles = angles.reshape(1, -1, 1, 3 * part)
    blank = [(0, 0), (0, 0), (0, 0), (0, width - 3 * part)]
    angles = np.pad(angles, blank)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def load(folder: Path) -> tuple[PyTree, VJEPA2Config]:
    """Loads parameters and settings of a local folder, without the predictor.

    Raises:
        UserError: as `folder.read_config` and `folder.load_params`.
    """
    config = hf.read_config(folder, {"vjepa2": WHERE})
    cfg = hf.settings(VJEPA2Config, config, folder)
    d, layer = cfg.hidden_size, "encoder.layer.{}."
    names = {
        "patches": "encoder.embeddings.patch_embeddings.proj",
        "final_norm": "encoder.layernorm",
        "blocks.q": f"{layer}attention.query",
        "blocks.k": f"{layer}attention.key",
        "blocks.v": f"{layer}attention.value",
        "blocks.o": f"{layer}attention.proj",
        "blocks.attn_norm": f"{layer}norm1",
        "blocks.mlp_norm": f"{layer}norm2",
        "blocks.mlp_in": f"{layer}mlp.fc1",
        "blocks.mlp_out": f"{layer}mlp.fc2",
    }
    pixels = 3 * cfg.tubelet_size * cfg.patch_size**2
    abstract = {
        "patches": {"kernel": vit.shape(pixels, d), "bias": vit.shape(d)},
        "final_norm": {"scale": vit.shape(d), "bias": vit.shape(d)},
        "blocks": vit.block_shapes(
            cfg, int(d * cfg.mlp_ratio), biased="qkv" if cfg.qkv_bias else ""
        ),
    }

    def canonical(name: str) -> str | None:
        name = name.removeprefix("vjepa2.")
        unused = ("predictor.", "pooler.", "classifier.")
        return None if name.startswith(unused) else name

    return hf.load_params(folder, abstract, names, canonical), cfg


def preprocess(
    video: UInt8[np.ndarray, "t h w 3"], cfg: VJEPA2Config
) -> Float[np.ndarray, "t size size 3"]:
    """Scales the shorter side to 8/7 of the size (bilinear), crops, normalises."""
    size = cfg.crop_size
    return centre_crops(
        list(video), size, short=size * 256 // 224, filter=Image.Resampling.BILINEAR
    )

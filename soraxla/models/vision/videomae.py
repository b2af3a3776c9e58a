"""VideoMAE (arXiv 2203.12602), a vision transformer of videos of 16 frames."""

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

WHERE = "MCG-NJU/videomae-base"


@dataclass(frozen=True, kw_only=True)
class VideoMAEConfig(vit.ViTConfig):
    """The settings; sizes in pixels.

    Attributes:
        tubelet_size: frames of a token.
        use_mean_pooling: the norm follows the mean of the tokens, in networks that were
            trained further as classifiers; it precedes the mean in others.
    """

    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_frames: int = 16
    tubelet_size: int = 2
    qkv_bias: bool = True
    use_mean_pooling: bool = True


def embed_video(
    params: PyTree, cfg: VideoMAEConfig, pixels: Float[Array, "b t h w 3"]
) -> Float[Array, "b d"]:
    """Returns the mean of the tokens and the final norm, in the network's order.

    Args:
        pixels: the result of `preprocess` for each video, of `cfg.num_frames`.
    """
    x = vit.tubelets(pixels, cfg.tubelet_size, cfg.patch_size)
    x = vit.dense(x, params["patches"])
    x = x + _places(x.shape[1], cfg.hidden_size)[None]
    x = vit.blocks(x, params["blocks"], cfg)
    if cfg.use_mean_pooling:
        x = jnp.mean(x, axis=1, keepdims=True)
    x = vit.norm(x, params["final_norm"], cfg.layer_norm_eps)
    return jnp.mean(x, axis=1)


def _places(tokens: int, width: int) -> Float[np.ndarray, "{tokens} {width}"]:
    """Returns sines in even channels, cosines of the same angle in odd ones."""
    channel = np.arange(width)
    angle = np.arange(tokens)[:, None] / 10000.0 ** (2 * (channel // 2) / width)
    table = np.where(channel % 2, np.cos(angle), np.sin(angle))
    return table.astype(np.float32)


def load(folder: Path) -> tuple[PyTree, VideoMAEConfig]:
    """Loads parameters and settings of a local folder.

    Raises:
        UserError: as `folder.read_config` and `folder.load_params`.
    """
    config = hf.read_config(folder, {"videomae": WHERE})
    biased = config.get("qkv_bias", config.get("qv_bias", True))
    cfg = hf.settings(VideoMAEConfig, config, folder, qkv_bias=biased)
    d, layer = cfg.hidden_size, "encoder.layer.{}."
    attention = f"{layer}attention.attention."
    names = {
        "patches": "embeddings.patch_embeddings.projection",
        "final_norm": "fc_norm" if cfg.use_mean_pooling else "layernorm",
        "blocks.q": f"{attention}query",
        "blocks.k": f"{attention}key",
        "blocks.v": f"{attention}value",
        "blocks.o": f"{layer}attention.output.dense",
        "blocks.attn_norm": f"{layer}layernorm_before",
        "blocks.mlp_norm": f"{layer}layernorm_after",
        "blocks.mlp_in": f"{layer}intermediate.dense",
        "blocks.mlp_out": f"{layer}output.dense",
    }
    pixels = 3 * cfg.tubelet_size * cfg.patch_size**2
    abstract = {
        "patches": {"kernel": vit.shape(pixels, d), "bias": vit.shape(d)},
        "final_norm": {"scale": vit.shape(d), "bias": vit.shape(d)},
        "blocks": vit.block_shapes(
            cfg, cfg.intermediate_size, biased="qv" if cfg.qkv_bias else ""
        ),
    }

    def canonical(name: str) -> str | None:
        name = name.removeprefix("videomae.")
        unused = ("classifier.", "decoder.", "encoder_to_decoder.", "mask_token")
        if name.startswith(unused) or name.endswith("position_embeddings"):
            return None
        for part in ("query", "value"):  # the files' names of these biases
            name = name.replace(f"attention.{part[0]}_bias", f"attention.{part}.bias")
        return name

    return hf.load_params(folder, abstract, names, canonical), cfg


def preprocess(
    video: UInt8[np.ndarray, "t h w 3"], cfg: VideoMAEConfig
) -> Float[np.ndarray, "t size size 3"]:
    """Scales the shorter side to the size (bilinear), crops the centre, normalises."""
    size = cfg.image_size
    return centre_crops(list(video), size, short=size, filter=Image.Resampling.BILINEAR)

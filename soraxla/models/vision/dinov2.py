"""DINOv2 (arXiv 2304.07193), a vision transformer of single frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, UInt8
from PIL import Image

from soraxla.core.types import Array
from soraxla.models.text import folder as hf
from soraxla.models.vision import vit
from soraxla.models.vision.resize import bicubic_matrix, centre_crops

WHERE = "facebook/dinov2-base"
SIDE, SHORT = 224, 256  # pixels of the crop, and of the shorter side before


@dataclass(frozen=True, kw_only=True)
class Dinov2Config(vit.ViTConfig):
    """The settings.

    Attributes:
        mlp_ratio: hidden units of a block's MLP by the width.
        image_size: pixels of an image's side in the position table.
        patch_size: pixels of a token's side.
        qkv_bias: queries, keys and values have biases.
        use_swiglu_ffn: the MLP has a gate.
    """

    mlp_ratio: int = 4
    image_size: int = 224
    patch_size: int = 14
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False

    @property
    def hidden(self) -> int:
        """The width of the MLP, after the gate if it has one."""
        width = self.hidden_size * self.mlp_ratio
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else width


def embed_images(
    params: PyTree, cfg: Dinov2Config, pixels: Float[Array, "b h w 3"]
) -> Float[Array, "b d"]:
    """Returns the class token's state, normed: transformers' `pooler_output`.

    Args:
        pixels: the result of `preprocess`; sides are multiples of the patch.
    """
    _, h, w, _ = pixels.shape
    x = vit.tubelets(pixels[:, None], 1, cfg.patch_size)
    x = _states(params, cfg, x, (h // cfg.patch_size, w // cfg.patch_size))
    return vit.norm(x[:, :1], params["final_norm"], cfg.layer_norm_eps)[:, 0]


def patch_states(
    params: PyTree,
    cfg: Dinov2Config,
    patches: Float[Array, "b n p"],
    grid: tuple[int, int],
) -> Float[Array, "b n d"]:
    """Returns the last state of each patch, normed.

    Args:
        patches: rows of `vit.tubelets` of one frame, normalised pixels.
        grid: patches along height and width.
    """
    x = _states(params, cfg, patches, grid)
    return vit.norm(x[:, 1:], params["final_norm"], cfg.layer_norm_eps)


def _states(
    params: PyTree, cfg: Dinov2Config, x: Array, grid: tuple[int, int]
) -> Float[Array, "b m d"]:
    """Returns the states of the class token and of the patches after all blocks."""
    x = vit.dense(x, params["patches"])
    first = jnp.broadcast_to(params["class_token"], (x.shape[0], 1, cfg.hidden_size))
    x = jnp.concatenate([first, x], axis=1) + _places(params["places"], *grid)
    return vit.blocks(x, params["blocks"], cfg)


def _places(
    table: Float[Array, "1 n d"], height: int, width: int
) -> Float[Array, "1 m d"]:
    """Returns the positions of a grid, interpolated unless it is that of training."""
    side = round((table.shape[1] - 1) ** 0.5)
    if (height, width) == (side, side):
        return table
    grid = table[0, 1:].reshape(side, side, -1)
    rows, columns = bicubic_matrix(side, height), bicubic_matrix(side, width)
    exact = jax.lax.Precision.HIGHEST
    grid = jnp.einsum("yi,xj,ijd->yxd", rows, columns, grid, precision=exact)
    return jnp.concatenate([table[:, :1], grid.reshape(1, height * width, -1)], axis=1)


def load(folder: Path) -> tuple[PyTree, Dinov2Config]:
    """Loads parameters and settings of a local folder.

    Raises:
        UserError: as `folder.read_config` and `folder.load_params`.
    """
    config = hf.read_config(folder, {"dinov2": WHERE})
    cfg = hf.settings(Dinov2Config, config, folder)
    layer = "encoder.layer.{}."
    mlp = ("weights_in", "weights_out") if cfg.use_swiglu_ffn else ("fc1", "fc2")
    names = {
        "class_token": "embeddings.cls_token",
        "places": "embeddings.position_embeddings",
        "patches": "embeddings.patch_embeddings.projection",
        "final_norm": "layernorm",
        "blocks.q": f"{layer}attention.attention.query",
        "blocks.k": f"{layer}attention.attention.key",
        "blocks.v": f"{layer}attention.attention.value",
        "blocks.o": f"{layer}attention.output.dense",
        "blocks.attn_norm": f"{layer}norm1",
        "blocks.mlp_norm": f"{layer}norm2",
        "blocks.attn_gain": f"{layer}layer_scale1.lambda1",
        "blocks.mlp_gain": f"{layer}layer_scale2.lambda1",
        "blocks.mlp_in": f"{layer}mlp.{mlp[0]}",
        "blocks.mlp_out": f"{layer}mlp.{mlp[1]}",
    }
    abstract = shapes(cfg)

    def canonical(name: str) -> str | None:
        name = name.removeprefix("dinov2.")
        unused = ("classifier.", "embeddings.mask_token")
        return None if name.startswith(unused) else name

    return hf.load_params(folder, abstract, names, canonical), cfg


def shapes(cfg: Dinov2Config) -> PyTree:
    """Returns the shapes of the parameters."""
    d = cfg.hidden_size
    patch, places = cfg.patch_size, (cfg.image_size // cfg.patch_size) ** 2 + 1
    return {
        "class_token": vit.shape(1, 1, d),
        "places": vit.shape(1, places, d),
        "patches": {"kernel": vit.shape(3 * patch**2, d), "bias": vit.shape(d)},
        "final_norm": {"scale": vit.shape(d), "bias": vit.shape(d)},
        "blocks": vit.block_shapes(
            cfg,
            cfg.hidden,
            biased="qkv" if cfg.qkv_bias else "",
            gated=cfg.use_swiglu_ffn,
            scaled=True,
        ),
    }


def preprocess(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
) -> Float[np.ndarray, "b 224 224 3"]:
    """Scales the shorter side to 256 (bicubic), crops the centre and normalises."""
    return centre_crops(images, SIDE, short=SHORT, filter=Image.Resampling.BICUBIC)

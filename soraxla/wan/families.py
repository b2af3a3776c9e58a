"""Which Wan model some tensors are, told from their shapes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soraxla.models.config import DiTConfig
from soraxla.models.vae import VAEConfig

_HEAD_DIM = 128  # of every public Wan
_SUPPORTED = "Wan 2.1 text-to-video 1.3B and 14B, and their VAE"

# AutoencoderKLWan's defaults; Wan's own VAE file does not hold them.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
)

Shapes = Mapping[str, tuple[int, ...]]


def read_json(path: Path) -> dict[str, Any]:
    """A folder's configuration; empty if there is none.

    Raises:
        ValueError: it is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object; copy it again")
    return found


def dit_config_of(
    shapes: Shapes, config: Mapping[str, Any], where: Path, *, shift: float | None
) -> DiTConfig:
    """The settings of a transformer with these tensors, in diffusers' names.

    Args:
        config: diffusers' `config.json`, or empty: heads are then of 128 features.
        shift: the scheduler's, if it is known; else that of the family.

    Raises:
        ValueError: it is no Wan transformer, or one that is not supported.
    """
    try:
        width, channels, *patch = shapes["patch_embedding.weight"]
        outputs = shapes["proj_out.weight"][0]
        mlp_width = shapes["blocks.0.ffn.net.0.proj.weight"][0]
        text_width = shapes["condition_embedder.text_embedder.linear_1.weight"][1]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{where}: not a Wan transformer (no {error}); supported: {_SUPPORTED}"
        ) from error
    if any(".add_k_proj." in name for name in shapes) or outputs != channels * (
        patch[0] * patch[1] * patch[2]
    ):
        raise ValueError(
            f"{where}: a Wan model with {channels} input channels that takes images in "
            f"a second way (image-to-video); supported: {_SUPPORTED}"
        )
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in shapes]
    is_5b = channels == 48
    return DiTConfig(
        layers=1 + max(int(found[1]) for found in blocks if found),
        width=width,
        heads=config.get("num_attention_heads", max(1, width // _HEAD_DIM)),
        mlp_width=mlp_width,
        latent_channels=channels,
        patch=(patch[0], patch[1], patch[2]),
        text_width=text_width,
        text_refiner_layers=0,
        text_pad_to=512,
        position_embed=False,
        rope_fps=24.0 if is_5b else 16.0,
        shift=shift or (3.0 if width <= 1536 and not is_5b else 5.0),
    )


def vae_config_of(
    shapes: Shapes, config: Mapping[str, Any], where: Path, *, dtype: Any = "float32"
) -> VAEConfig:
    """The settings of a VAE with these tensors, in diffusers' names.

    Raises:
        ValueError: it is no Wan VAE, or one that is not supported.
    """
    try:
        base = shapes["encoder.conv_in.weight"][0]
        channels = shapes["post_quant_conv.weight"][0]
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{where}: not a Wan VAE (no {error}); supported: {_SUPPORTED}"
        ) from error
    if shapes["encoder.conv_in.weight"][1] != 3 or config.get("is_residual"):
        raise ValueError(
            f"{where}: the residual VAE of Wan 2.2; supported: {_SUPPORTED}"
        )
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        mean, std = LATENT_MEAN, LATENT_STD
    settings = {
        "multipliers": config.get("dim_mult", (1, 2, 4, 4)),
        "temporal_down": config.get("temperal_downsample", (False, True, True)),
        "latent_mean": mean,
        "latent_std": std,
    }
    return VAEConfig(
        base_width=base,
        latent_channels=channels,
        res_blocks=config.get("num_res_blocks", 2),
        dtype=dtype,
        **{name: tuple(value) for name, value in settings.items()},
    )

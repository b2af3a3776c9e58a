"""The Wan model that some tensors belong to, found from their shapes."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soraxla.core.errors import UserError
from soraxla.models.dit.config import DiTConfig
from soraxla.models.vae.model import VAEConfig

_HEAD_DIM = 128  # of every public Wan
_FREQUENCIES = 256
_LAYERS = {1536: 30, 3072: 30, 5120: 40}  # by width
SUPPORTED = "Wan 2.1 text-to-video 1.3B and 14B, Wan 2.2 TI2V 5B, and their VAEs"

# AutoencoderKLWan's defaults; Wan's VAE file does not contain them.
LATENT_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENT_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
)
# Of Wan 2.2's VAE.
LATENT_MEAN_48 = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557),
    *(-0.1382, 0.0542, 0.2813, 0.0891, 0.157, -0.0098, 0.0375, -0.1825),
    *(-0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123),
    *(-0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748),
    *(0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
LATENT_STD_48 = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013),
    *(0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978),
    *(0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093),
    *(0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887),
    *(0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)
_STATISTICS = {16: (LATENT_MEAN, LATENT_STD), 48: (LATENT_MEAN_48, LATENT_STD_48)}

# By latent channels: the VAEs of Wan 2.1 and of Wan 2.2 TI2V 5B.
WAN_VAES = {
    16: VAEConfig(),
    48: VAEConfig(
        base_width=160,
        latent_channels=48,
        residual=True,
        decoder_width=256,
        pixel_patch=2,
    ),
}

Shapes = Mapping[str, tuple[int, ...]]


def read_json(path: Path) -> dict[str, Any]:
    """Returns a folder's configuration; empty if there is none.

    Raises:
        UserError: it is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object; copy it again")
    return found


def dit_config_of(
    shapes: Shapes, config: Mapping[str, Any], where: Path, *, shift: float | None
) -> DiTConfig:
    """Returns the settings of a transformer with these tensors, in diffusers' names.

    Args:
        config: diffusers' `config.json`, or empty: heads then have 128 features.
        shift: the scheduler's, if known; None takes that of the family.

    Raises:
        UserError: it is no Wan transformer, or an unsupported one.
    """
    try:
        width, channels, *patch = shapes["patch_embedding.weight"]
        pt, ph, pw = patch
        outputs = shapes["proj_out.weight"][0]
        mlp_width = shapes["blocks.0.ffn.net.0.proj.weight"][0]
        text_width = shapes["condition_embedder.text_embedder.linear_1.weight"][1]
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{where}: not a Wan transformer (no {error}); supported: {SUPPORTED}"
        ) from error
    second = any(".add_k_proj." in name for name in shapes)
    if second or outputs != channels * pt * ph * pw:
        raise UserError(
            f"{where}: a Wan model with {channels} input channels that takes images in "
            f"a second way (image-to-video); supported: {SUPPORTED}"
        )
    layers = _layers(shapes, config, width, where)
    is_5b = channels == 48
    _check_config(
        config,
        where,
        num_layers=layers,
        in_channels=channels,
        in_dim=channels,
        out_channels=channels,
        ffn_dim=mlp_width,
        text_dim=text_width,
        dim=width,
        freq_dim=_frequencies(shapes, where),
        patch_size=list(patch),
    )
    return DiTConfig(
        layers=layers,
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


def _layers(shapes: Shapes, config: Mapping[str, Any], width: int, where: Path) -> int:
    """Returns the number of blocks.

    Raises:
        UserError: a public model has more, and no `config.json` says how many.
    """
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in shapes]
    layers, known = 1 + max(int(found[1]) for found in blocks if found), _LAYERS
    if "num_layers" not in config and layers < known.get(width, 0):
        raise UserError(
            f"{where}: has {layers} of the {known[width]} blocks of a Wan transformer "
            f"of width {width}; download the other files, or put its config.json "
            "beside it"
        )
    return layers


def _frequencies(shapes: Shapes, where: Path) -> int:
    """Returns the sinusoids of the time embedding.

    Raises:
        UserError: there are not as many as ours has.
    """
    name = "condition_embedder.time_embedder.linear_1.weight"
    found = shapes.get(name, (0, _FREQUENCIES))[-1]
    if found != _FREQUENCIES:
        raise UserError(
            f"{where}: its freq_dim is {found}, and only {_FREQUENCIES} is supported, "
            "that of every public Wan"
        )
    return found


def _check_config(config: Mapping[str, Any], where: Path, **found: Any) -> None:
    """Raises UserError unless a `config.json` says what the tensors have."""
    for key, value in found.items():
        if config.get(key, value) != value:
            raise UserError(
                f"{where}: its config.json says {key} = {config[key]}, the weights "
                f"have {value}; the files are incomplete or of another model"
            )
    for key, supported in (
        ("_class_name", ("WanTransformer3DModel", "WanModel")),
        ("qk_norm", ("rms_norm_across_heads", True)),
        ("cross_attn_norm", (True,)),
        ("model_type", ("t2v", "ti2v")),
    ):
        if config.get(key, supported[0]) not in supported:
            raise UserError(
                f"{where}: its config.json says {key} = {config[key]!r}, and only "
                f"{supported[0]!r} is supported; supported: {SUPPORTED}"
            )


def vae_config_of(
    shapes: Shapes, config: Mapping[str, Any], where: Path, *, dtype: Any = "float32"
) -> VAEConfig:
    """Returns the settings of a VAE with these tensors, in diffusers' names.

    Raises:
        UserError: it is no Wan VAE, or an unsupported one.
    """
    try:
        base, folded = shapes["encoder.conv_in.weight"][:2]
        channels = shapes["post_quant_conv.weight"][0]
        widest = shapes["decoder.conv_in.weight"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{where}: not a Wan VAE (no {error}); supported: {SUPPORTED}"
        ) from error
    multipliers = config.get("dim_mult", (1, 2, 4, 4))
    decoder_width = widest // multipliers[-1]
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        if channels not in _STATISTICS:
            raise UserError(
                f"{where}: a VAE of {channels} latent channels without latents_mean "
                "and latents_std; put its config.json beside it"
            )
        mean, std = _STATISTICS[channels]
    temporal_down = config.get("temperal_downsample", (False, True, True))
    return VAEConfig(
        base_width=base,
        latent_channels=channels,
        res_blocks=config.get("num_res_blocks", 2),
        residual=any(
            name.startswith("encoder.down_blocks.0.resnets.") for name in shapes
        ),
        decoder_width=None if decoder_width == base else decoder_width,
        pixel_patch=math.isqrt(folded // 3),
        dtype=dtype,
        multipliers=tuple(multipliers),
        temporal_down=tuple(temporal_down),
        latent_mean=tuple(mean),
        latent_std=tuple(std),
    )

"""Makes the `wan22_*` files beside it: diffusers' Wan 2.2, tiny, with random weights.

    python tests/golden/make_wan22.py     # torch 2.13, diffusers 0.42.1

The files hold the residual VAE at four clip lengths, and the transformer with a time
per token, as TI2V samples. Tests read the files without torch.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent
CHANNELS = 48
# Frames, height, width: sides of an odd number of latents.
CLIPS = [(1, 80, 48), (5, 48, 16), (9, 16, 48), (17, 16, 48)]


def randomised(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Gains, biases and tables away from 1 and 0; every weight exact in `dtype`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            small = parameter.ndim < 2 or any(
                part in name for part in ("gamma", "table", "norm")
            )
            if small:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            parameter.copy_(parameter.to(dtype).float())
    return model.eval()


def save(name: str, model, dtype: torch.dtype, arrays: dict) -> None:
    tensors = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, HERE / f"{name}.safetensors", metadata={"format": "pt"})
    public = {k: v for k, v in model.config.items() if not k.startswith("_")}
    config = json.dumps(public, sort_keys=True)
    np.savez_compressed(HERE / f"{name}.npz", config=np.array(config), **arrays)


def make_vae() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=5,
        z_dim=CHANNELS,
        num_res_blocks=1,
        latents_mean=rng.normal(size=CHANNELS).round(3).tolist(),
        latents_std=rng.uniform(0.5, 2.0, size=CHANNELS).round(3).tolist(),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    vae = randomised(vae, torch.float16)
    arrays = {}
    for frames, height, width in CLIPS:
        video = rng.integers(0, 256, (1, 3, frames, height, width), np.uint8)
        with torch.no_grad():
            pixels = torch.tensor(video.astype(np.float32) / 127.5 - 1.0)
            posterior = vae.encode(pixels).latent_dist
            z = 0.4 * rng.normal(size=posterior.mean.shape).astype(np.float32)
            decoded = vae.decode(torch.tensor(z)).sample
        share = (decoded.abs() < 1).float().mean()
        assert share > 0.9, f"{share:.0%} of the pixels are not clamped; scale z"
        arrays |= {
            f"video_{frames}": video,
            f"mean_{frames}": posterior.mean.numpy(),
            f"logvar_{frames}": posterior.logvar.numpy(),
            f"z_{frames}": z,
            f"pixels_{frames}": decoded.numpy(),
        }
    save("wan22_vae", vae, torch.float16, arrays)


def make_transformer() -> None:
    """Two clips: the first latent frame known, and its last one; texts of 5 and 9."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=20,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=8,
        freq_dim=256,
        ffn_dim=48,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
    )
    model = randomised(model, torch.float32)
    x = rng.normal(size=(2, CHANNELS, 3, 4, 6)).astype(np.float32)
    text = rng.normal(size=(2, 512, 8)).astype(np.float32)
    words = np.array([5, 9])
    for row, n in zip(text, words, strict=True):
        row[n:] = 0.0
    time = np.array([[700.0], [250.0]], np.float32)
    condition_mask = np.zeros((2, 3, 2 * 3), bool)  # latent frame, patch
    condition_mask[0, 0] = condition_mask[1, 2] = True
    condition_mask = condition_mask.reshape(2, -1)
    with torch.no_grad():
        out = model(
            torch.tensor(x),
            torch.tensor(np.where(condition_mask, 0.0, time).astype(np.float32)),
            torch.tensor(text),
        ).sample
    arrays = {"x": x, "text": text[:, : words.max()], "words": words, "time": time}
    arrays |= {"known": condition_mask, "out": out.numpy()}
    save("wan22_dit", model, torch.float32, arrays)


if __name__ == "__main__":
    make_vae()
    make_transformer()

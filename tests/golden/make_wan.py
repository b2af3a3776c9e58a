"""Makes `wan21/` and `wan21.npz`: a tiny random Wan 2.1 and what diffusers makes of it.

    python tests/golden/make_wan.py        # in the environment of peers.txt

Weights are stored in fp16 and computed with in fp32, by diffusers. Outputs are the
transformer's on short and full text, square and long grids, the VAE's on clips of 1, 5
and 17 frames, and the pipeline's at every step of both samplers.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

HERE = Path(__file__).parent
TEXT, TEXT_LENGTH, SHIFT = 6, 512, 3.0


def main() -> None:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=28,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT,
        ffn_dim=40,
        num_layers=3,
    )
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        latents_mean=[0.1, 0.2, -0.3, 0.4],
        latents_std=[1.0, 2.0, 0.5, 0.7],
    )
    for model in (transformer, vae):
        shake(model)
    folder = HERE / "wan21"
    shutil.rmtree(folder, ignore_errors=True)
    transformer.half().save_pretrained(folder / "transformer", max_shard_size="60KB")
    vae.half().save_pretrained(folder / "vae")
    UniPCMultistepScheduler(flow_shift=SHIFT, use_flow_sigmas=True).save_pretrained(
        folder / "scheduler"
    )
    transformer, vae = transformer.float(), vae.float()
    arrays = of_transformer(transformer) | of_vae(vae)
    arrays |= of_pipeline(transformer, vae)
    np.savez_compressed(HERE / "wan21.npz", **arrays)
    names = json.dumps(original_names(transformer), indent=1) + "\n"
    (HERE / "wan21_names.json").write_text(names)


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Moves what starts at 0 or 1, so that all is seen; fp16 values in fp32."""
    for name, p in model.named_parameters():
        if p.ndim < 2 or any(part in name for part in ("gamma", "table")):
            p.add_(0.2 * torch.randn_like(p))
        p.copy_(p.half().float())


@torch.no_grad()
def of_transformer(model: torch.nn.Module) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays = {}
    cases = [
        ("short", (3, 8, 12), 7, 700.0),
        ("full", (2, 6, 4), TEXT_LENGTH, 31.0),
        ("long", (1, 2, 300), 1, 1000.0),
        ("deep", (40, 4, 2), 20, 250.0),
    ]
    for name, (t, h, w), words, time in cases:
        x = rng.normal(size=(1, 4, t, h, w)).astype(np.float32)
        text = np.zeros((1, TEXT_LENGTH, TEXT), np.float32)
        text[:, :words] = rng.normal(size=(1, words, TEXT))
        out = model(
            torch.tensor(x), torch.tensor([time]), torch.tensor(text), return_dict=False
        )[0]
        arrays |= {f"dit.{name}.x": x[0], f"dit.{name}.text": text[0, :words]}
        arrays |= {f"dit.{name}.t": np.float32(time), f"dit.{name}.out": out[0].numpy()}
    return arrays


@torch.no_grad()
def of_vae(model: torch.nn.Module) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    arrays = {}
    for frames, h, w in ((1, 24, 40), (5, 40, 24), (17, 16, 16)):
        video = rng.uniform(-1, 1, (1, 3, frames, h, w)).astype(np.float16)
        video = video.astype(np.float32)
        posterior = model.encode(torch.tensor(video)).latent_dist
        z = rng.normal(size=posterior.mean.shape).astype(np.float32)
        pixels = model.decode(torch.tensor(z), return_dict=False)[0]
        case = {
            "video": video.astype(np.float16),
            "mean": posterior.mean.numpy(),
            "logvar": posterior.logvar.numpy(),
            "z": z,
            "pixels": pixels.numpy(),
        }
        arrays |= {f"vae.{frames}.{key}": value[0] for key, value in case.items()}
    return arrays


@torch.no_grad()
def of_pipeline(transformer: torch.nn.Module, vae: torch.nn.Module) -> dict:
    """Latents before and after each of 10 steps, guided, by both of Wan's samplers."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(1, 4, 3, 4, 6)).astype(np.float32)
    text = {
        "prompt": rng.normal(size=(9, TEXT)).astype(np.float32),
        "negative": rng.normal(size=(4, TEXT)).astype(np.float32),
    }
    padded = {
        key: torch.tensor(np.pad(rows, ((0, TEXT_LENGTH - len(rows)), (0, 0))))[None]
        for key, rows in text.items()
    }
    arrays = {f"pipe.{key}": rows for key, rows in text.items()}
    unipc = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )
    euler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    for name, scheduler in (("unipc", unipc), ("wan-euler", euler)):
        kept = [noise[0]]

        def keep(pipe, step, time, tensors, kept=kept):
            kept.append(tensors["latents"][0].numpy().copy())
            return tensors

        pipe = WanPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=vae,
            scheduler=scheduler,
            transformer=transformer,
        )
        pipe.set_progress_bar_config(disable=True)
        pipe(
            height=32,
            width=48,
            num_frames=9,
            num_inference_steps=10,
            guidance_scale=5.0,
            latents=torch.tensor(noise),
            prompt_embeds=padded["prompt"],
            negative_prompt_embeds=padded["negative"],
            output_type="latent",
            callback_on_step_end=keep,
        )
        arrays[f"pipe.{name}"] = np.stack(kept)
    return arrays


def original_names(model: torch.nn.Module) -> dict[str, str]:
    """Wan's own name of every tensor and diffusers', by diffusers' converter."""
    outer = "patch_embedding time_embedding.0 time_embedding.2 time_projection.1"
    outer += " text_embedding.0 text_embedding.2 head.head"
    linear = "self_attn.q self_attn.k self_attn.v self_attn.o cross_attn.q cross_attn.k"
    linear += " cross_attn.v cross_attn.o ffn.0 ffn.2 norm3"
    gains = "self_attn.norm_q self_attn.norm_k cross_attn.norm_q cross_attn.norm_k"
    names = [f"{m}.{leaf}" for m in outer.split() for leaf in ("weight", "bias")]
    names.append("head.modulation")
    for i in range(model.config.num_layers):
        block = f"blocks.{i}"
        names += [
            f"{block}.{m}.{leaf}" for m in linear.split() for leaf in ("weight", "bias")
        ]
        names += [f"{block}.{m}.weight" for m in gains.split()]
        names.append(f"{block}.modulation")
    marked = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    converted = convert_wan_transformer_to_diffusers(dict(marked))
    assert converted.keys() == model.state_dict().keys()
    return {names[int(value)]: name for name, value in converted.items()}


if __name__ == "__main__":
    main()

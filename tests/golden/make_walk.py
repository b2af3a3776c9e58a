"""Makes `walk/` and `walk.npz`: a tiny Wan 2.1 with umT5, and diffusers' long clip.

    python -m tests.golden.make_walk        # in the environment of peers.txt

The VAE is that of `make_wan.py`, and the weights of umT5 are drawn by `seeded.py`. The
arrays are what `WanPipeline` makes of one prompt: 81 frames in one piece, from a noise
that is stored too, before and after every step, and the frames.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import AutoTokenizer, UMT5EncoderModel

from tests.golden.make_wan import shake
from tests.models.text.golden import write_encoder

HERE = Path(__file__).parent
PROMPT, FRAMES, SIDE, STEPS, GUIDANCE, SHIFT = "a ginger cat", 81, 32, 4, 5.0, 3.0


def main() -> None:
    torch.manual_seed(7)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=24,
        ffn_dim=32,
        num_layers=2,
    )
    shake(transformer)
    shutil.rmtree(HERE / "walk", ignore_errors=True)
    transformer.half().save_pretrained(HERE / "walk" / "transformer")
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )
    scheduler.save_pretrained(HERE / "walk" / "scheduler")
    with tempfile.TemporaryDirectory() as temporary:
        encoder = write_encoder(Path(temporary), "umt5")
        pipe = WanPipeline(
            tokenizer=AutoTokenizer.from_pretrained(encoder, pad_token="<pad>"),
            text_encoder=UMT5EncoderModel.from_pretrained(encoder).float(),
            vae=AutoencoderKLWan.from_pretrained(HERE / "wan21" / "vae").float(),
            scheduler=scheduler,
            transformer=transformer.float(),
        )
        pipe.set_progress_bar_config(disable=True)
        np.savez_compressed(HERE / "walk.npz", **clip(pipe))


def clip(pipe: WanPipeline) -> dict[str, np.ndarray]:
    """Latents before and after each step, and the frames of them."""
    shape = (1, 4, 1 + (FRAMES - 1) // 4, SIDE // 8, SIDE // 8)
    noise = np.random.default_rng(8).normal(size=shape).astype(np.float32)
    kept = [noise[0]]

    def keep(pipe, step, time, tensors):
        kept.append(tensors["latents"][0].numpy().copy())
        return tensors

    out = pipe(
        PROMPT,
        negative_prompt="",
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=torch.tensor(noise),
        output_type="np",
        callback_on_step_end=keep,
    )
    frames = np.round(255.0 * out.frames[0]).astype(np.uint8)
    return {"latents": np.stack(kept), "frames": frames}


if __name__ == "__main__":
    main()

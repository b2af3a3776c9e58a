"""Makes `lora.npz`: what diffusers computes with an adapter file loaded.

Run from the root with the peers of `peers.txt`, which need no part of soraxla:

    python -m tests.golden.make_lora

The fixture holds a small random WanTransformer3DModel in diffusers' own names, an
adapter of its attention and MLP layers as `load_lora_weights` reads it, and one input
with the outputs before and after loading.
"""

import json
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
from safetensors.numpy import save_file

HERE = Path(__file__).parent
LAYERS, HEADS, HEAD_DIM, MLP, CHANNELS, TEXT, RANK = 2, 2, 12, 32, 4, 8, 3
TOKENS = 7  # of the prompt; the rest of its 512 is padding


def transformer() -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT,
        freq_dim=256,
        ffn_dim=MLP,
        num_layers=LAYERS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "table" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def adapter(random: np.random.Generator) -> dict[str, np.ndarray]:
    """The file's tensors: (rank, in) and (out, rank) for every adapted layer."""
    width = HEADS * HEAD_DIM
    sizes = {
        f"{attention}.{layer}": (width, width)
        for attention in ("attn1", "attn2")
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
    } | {"ffn.net.0.proj": (width, MLP), "ffn.net.2": (MLP, width)}
    tensors = {}
    for block in range(LAYERS):
        for layer, (fan_in, fan_out) in sizes.items():
            name = f"transformer.blocks.{block}.{layer}"
            a = random.normal(size=(RANK, fan_in)) * fan_in**-0.5
            b = random.normal(size=(fan_out, RANK))
            tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = b.astype(np.float32)
    return tensors


def main() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model, added = transformer(), adapter(random)
    stored = {f"model:{k}": v.numpy().copy() for k, v in model.state_dict().items()}
    text = random.normal(size=(1, 512, TEXT)).astype(np.float32)
    text[:, TOKENS:] = 0
    inputs = {
        "latents": random.normal(size=(1, CHANNELS, 3, 6, 8)).astype(np.float32),
        "time": np.float32([700.0]),
        "text": text,
    }

    def run() -> np.ndarray:
        with torch.no_grad():
            return model(*map(torch.tensor, inputs.values()), return_dict=False)[
                0
            ].numpy()

    before = run()
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLWan(base_dim=8, z_dim=CHANNELS),
        transformer=model,
        scheduler=UniPCMultistepScheduler(),
    )
    with tempfile.TemporaryDirectory() as folder:
        save_file(added, Path(folder) / "pytorch_lora_weights.safetensors")
        pipeline.load_lora_weights(folder)
    after = run()
    np.savez_compressed(
        HERE / "lora.npz",
        config=np.array(json.dumps(dict(model.config))),
        before=before,
        after=after,
        tokens=TOKENS,
        **stored,
        **inputs,
        **{f"adapter:{k}": v for k, v in added.items()},
    )
    print(abs(after - before).max(), abs(after).max())


if __name__ == "__main__":
    main()

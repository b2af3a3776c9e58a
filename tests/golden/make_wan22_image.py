"""Makes `wan22_image.npz`: diffusers' image-to-video of the tiny Wan 2.2 beside it.

    python tests/golden/make_wan22_image.py     # in the environment of peers.txt

The weights are those of make_wan22.py. Kept are the picture, the first noise, and what
the transformer is shown in each of 10 guided steps of both of Wan's samplers, then
what comes out: latents whose first frame is the picture's.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).parent
HEIGHT, WIDTH, FRAMES, SHIFT = 32, 64, 9, 5.0
TEXT, TEXT_LENGTH = 8, 512


def load(cls: type, name: str) -> torch.nn.Module:
    model = cls(**json.loads(str(np.load(HERE / f"{name}.npz")["config"])))
    stored = load_file(HERE / f"{name}.safetensors")
    model.load_state_dict({key: value.float() for key, value in stored.items()})
    return model.eval()


@torch.no_grad()
def main() -> None:
    vae = load(AutoencoderKLWan, "wan22_vae")
    transformer = load(WanTransformer3DModel, "wan22_dit")
    rng = np.random.default_rng(5)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    noise = rng.normal(size=(1, 48, 3, HEIGHT // 16, WIDTH // 16)).astype(np.float32)
    arrays = {"picture": picture, "noise": noise[0]}
    text = {}
    for key, words in (("prompt", 9), ("negative", 4)):
        rows = rng.normal(size=(words, TEXT)).astype(np.float32)
        padded = np.pad(rows, ((0, TEXT_LENGTH - words), (0, 0)))
        arrays[key], text[key] = rows, torch.tensor(padded)[None]
    unipc = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )
    euler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    for name, scheduler in (("unipc", unipc), ("wan-euler", euler)):
        shown, times = [], []

        def keep(_, args, kwargs, shown=shown, times=times):
            shown.append(kwargs["hidden_states"][0].numpy().copy())
            times.append(kwargs["timestep"][0].numpy().copy())

        hook = transformer.register_forward_pre_hook(keep, with_kwargs=True)
        pipe = WanImageToVideoPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=vae,
            scheduler=scheduler,
            transformer=transformer,
            expand_timesteps=True,
        )
        pipe.set_progress_bar_config(disable=True)
        out = pipe(
            image=Image.fromarray(picture),
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            num_inference_steps=10,
            guidance_scale=5.0,
            latents=torch.tensor(noise),
            prompt_embeds=text["prompt"],
            negative_prompt_embeds=text["negative"],
            output_type="latent",
        ).frames
        hook.remove()
        # Guidance asks twice a step, of the same latents.
        arrays[f"{name}.latents"] = np.stack([*shown[::2], out[0].numpy()])
        arrays[f"{name}.times"] = np.stack(times[::2])
    np.savez_compressed(HERE / "wan22_image.npz", **arrays)


if __name__ == "__main__":
    main()

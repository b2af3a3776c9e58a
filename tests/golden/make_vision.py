"""Makes `vision.npz`: what the reference feature networks answer.

Run from the root with the peers of `peers.txt`, and with torch-fidelity 0.4 and cd-fvd
0.1.1, both installed by `pip install --no-deps`:

    python -m tests.golden.make_vision

Weights are drawn by `vision.py` and not stored.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors import safe_open
from safetensors.numpy import save_file
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.videomae.image_processing_pil_videomae import (
    VideoMAEImageProcessorPil,
)
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

from tests.golden.seeded import tensors
from tests.golden.vision import (
    DIVISOR,
    FILE,
    IMAGES,
    LARGE,
    image,
    normed,
    video,
)


def narrow(channels: int) -> int:
    """Returns the channels of a network that is `DIVISOR` times narrower."""
    return channels if channels == 3 else max(1, channels // DIVISOR)


def make_narrow(layer: type[Any]) -> None:
    """Divides the channels of all convolutions of a class."""
    plain = layer.__init__

    def narrowed(self: Any, in_channels: int, *rest: Any, **settings: Any) -> None:
        outputs = "output_channels"
        if outputs in settings:
            settings[outputs] = narrow(settings[outputs])
        else:
            rest = (narrow(rest[0]), *rest[1:])
        plain(self, narrow(in_channels), *rest, **settings)

    layer.__init__ = narrowed


def drawn(model: Any, seed: int) -> dict[str, Any]:
    """Returns the model's state with drawn weights."""
    state = model.state_dict()
    shapes = {n: tuple(v.shape) for n, v in state.items() if "num_batches" not in n}
    return state | {k: torch.tensor(v) for k, v in normed(shapes, seed).items()}


# --- Inception --------------------------------------------------------------------


class Drawn(fidelity.FeatureExtractorInceptionV3):
    def load_state_dict(self, state_dict: Any, *_: Any, **__: Any) -> Any:
        return super().load_state_dict(drawn(self, 1))


def inception() -> dict[str, Any]:
    make_narrow(fidelity.BasicConv2d)
    with tempfile.NamedTemporaryFile(suffix=".pth") as blank:
        torch.save({}, blank.name)
        model = Drawn("x", ["2048"], feature_extractor_weights_path=blank.name)
    found, pixels = [], []
    model.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, x: pixels.append(x[0][0]))
    for seed, (height, width) in enumerate(IMAGES):
        x = torch.tensor(image(height, width, seed)).permute(2, 0, 1)[None]
        with torch.no_grad():
            found.append(model(x)[0][0].numpy())
    kept = [x.permute(1, 2, 0).numpy()[::16, ::16] for x in pixels]
    return {"features": np.stack(found), "pixels": np.stack(kept)}


# --- I3D --------------------------------------------------------------------------


def cd_fvd(name: str) -> ModuleType:
    """Returns a module of cd-fvd, whose package imports more than it."""
    root = Path(importlib.util.find_spec("cdfvd").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location(
        f"i3d.{name}", root / "third_party/i3d" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def i3d() -> dict[str, Any]:
    sys.modules["i3d"] = ModuleType("i3d")
    network = cd_fvd("pytorch_i3d")
    make_narrow(network.Unit3D)
    model = network.InceptionI3d(400, in_channels=3).eval()
    model.load_state_dict(drawn(model, 2))
    sys.modules.setdefault("requests", ModuleType("unused"))
    sys.modules["i3d"].pytorch_i3d = network
    pixels = cd_fvd("utils").preprocess_i3d(video(0)[None])
    with torch.no_grad():
        found = model(pixels)
    kept = pixels[0].permute(1, 2, 3, 0).numpy()[::5, ::16, ::16]
    return {"features": found.numpy(), "pixels": kept}


# --- Vision transformers ----------------------------------------------------------

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
VIDEO_SIDES = {"image_size": 32, "patch_size": 8, "intermediate_size": 40}


def transformer(cls: type[Any], config: Any, seed: int, run: Any) -> dict[str, Any]:
    """Returns a case: the configuration, the drawn shapes, and what `run` answers."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cls(config).save_pretrained(folder)
        path = folder / "model.safetensors"
        with safe_open(path, framework="numpy") as file:
            shapes = {n: file.get_slice(n).get_shape() for n in file.keys()}  # noqa: SIM118
        save_file(tensors(shapes, seed), path, metadata={"format": "pt"})
        model = cls.from_pretrained(folder, attn_implementation="eager").eval()
        written = (folder / "config.json").read_text()
    with torch.no_grad():
        found = run(model)
    return {
        "config": written,
        "shapes": json.dumps(shapes),
        "seed": seed,
        **{name: np.asarray(value) for name, value in found.items()},
    }


def dinov2_cases() -> dict[str, Any]:
    images = [image(h, w, i) for i, (h, w) in enumerate(LARGE)]
    process = BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
    pixels = process(images, return_tensors="np")["pixel_values"]

    def run(model: Any) -> dict[str, Any]:
        kept = pixels.transpose(0, 2, 3, 1)[:, ::16, ::16]
        features = model(torch.tensor(pixels)).pooler_output
        return {"features": features, "pixels": kept}

    shared = SMALL | {"patch_size": 14}
    grown = hf.Dinov2Config(**shared, image_size=70)
    gated = hf.Dinov2Config(**shared, image_size=224, use_swiglu_ffn=True)
    return {
        "dinov2": transformer(hf.Dinov2Model, grown, 3, run),
        "dinov2_gated": transformer(hf.Dinov2Model, gated, 4, run),
    }


def videomae_cases() -> dict[str, Any]:
    process = VideoMAEImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
    pixels = process(list(video(1)), return_tensors="np")["pixel_values"]

    def run(model: Any) -> dict[str, Any]:
        tokens = model.videomae(torch.tensor(pixels)).last_hidden_state
        features = tokens.mean(1)
        if model.config.use_mean_pooling:
            features = model.fc_norm(features)
        kept = pixels[0].transpose(0, 2, 3, 1)[::5, ::4, ::4]
        return {"features": features, "pixels": kept}

    decoder = {
        "decoder_hidden_size": 8,
        "decoder_num_attention_heads": 2,
        "decoder_num_hidden_layers": 1,
        "decoder_intermediate_size": 8,
    }
    plain = hf.VideoMAEConfig(**SMALL, **VIDEO_SIDES, **decoder, use_mean_pooling=False)
    pooled = hf.VideoMAEConfig(**SMALL, **VIDEO_SIDES, use_mean_pooling=True)
    return {
        "videomae": transformer(hf.VideoMAEForPreTraining, plain, 5, run),
        "videomae_pooled": transformer(
            hf.VideoMAEForVideoClassification, pooled, 6, run
        ),
    }


def vjepa2_case() -> dict[str, Any]:
    frames = torch.tensor(video(2)).permute(0, 3, 1, 2)
    process = VJEPA2VideoProcessor(crop_size=32)
    pixels = process(frames, return_tensors="pt")["pixel_values_videos"]
    config = hf.VJEPA2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        crop_size=32,
        patch_size=8,
        frames_per_clip=64,
        pred_hidden_size=12,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        pred_num_mask_tokens=2,
    )

    def run(model: Any) -> dict[str, Any]:
        tokens = model(pixels, skip_predictor=True).last_hidden_state
        kept = pixels[0].permute(0, 2, 3, 1).numpy()
        kept = (kept * IMAGENET_DEFAULT_STD + IMAGENET_DEFAULT_MEAN) * 255
        return {"features": tokens.mean(1), "bytes": np.round(kept).astype(np.uint8)}

    return transformer(hf.VJEPA2Model, config, 7, run)


def main() -> None:
    """Writes the fixture."""
    hf.logging.set_verbosity_error()
    cases = {"inception": inception(), "i3d": i3d(), "vjepa2": vjepa2_case()}
    cases |= dinov2_cases() | videomae_cases()
    arrays = {f"{a}/{b}": v for a, case in cases.items() for b, v in case.items()}
    np.savez_compressed(FILE, **{k: np.asarray(v) for k, v in arrays.items()})
    print(f"{FILE.name}: {FILE.stat().st_size / 1000:.0f} kB")
    for name, value in arrays.items():
        print(name, np.shape(value))


if __name__ == "__main__":
    main()

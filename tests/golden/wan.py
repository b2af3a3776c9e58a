"""The small Wan models of the fixtures, as diffusers writes them."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent
LORA = GOLDEN / "lora.npz"
WAN22 = {"transformer": "wan22_dit", "vae": "wan22_vae"}


def part(prefix: str) -> dict[str, np.ndarray]:
    """The fixture's tensors `prefix:NAME`, by NAME."""
    with np.load(LORA) as stored:
        names = [name for name in stored if name.startswith(f"{prefix}:")]
        return {name.removeprefix(f"{prefix}:"): stored[name] for name in names}


def write_transformer(folder: Path) -> Path:
    """Writes the files of diffusers' `save_pretrained`."""
    folder.mkdir(parents=True)
    save_file(part("model"), folder / "diffusion_pytorch_model.safetensors")
    with np.load(LORA) as stored:
        config = json.loads(str(stored["config"]))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_wan22(folder: Path) -> Path:
    """Transformer and VAE of make_wan22.py."""
    for part, name in WAN22.items():
        (folder / part).mkdir(parents=True)
        weights = folder / part / "diffusion_pytorch_model.safetensors"
        shutil.copy(GOLDEN / f"{name}.safetensors", weights)
        with np.load(GOLDEN / f"{name}.npz") as stored:
            (folder / part / "config.json").write_text(str(stored["config"]))
    return folder

"""The small Wan transformer of `lora.npz`, as files."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LORA = Path(__file__).parent / "lora.npz"


def part(prefix: str) -> dict[str, np.ndarray]:
    """The fixture's tensors `prefix:NAME`, by NAME."""
    with np.load(LORA) as stored:
        names = [name for name in stored if name.startswith(f"{prefix}:")]
        return {name.removeprefix(f"{prefix}:"): stored[name] for name in names}


def write_transformer(folder: Path) -> Path:
    """What diffusers' `save_pretrained` writes."""
    folder.mkdir(parents=True)
    save_file(part("model"), folder / "diffusion_pytorch_model.safetensors")
    with np.load(LORA) as stored:
        config = json.loads(str(stored["config"]))
    (folder / "config.json").write_text(json.dumps(config))
    return folder

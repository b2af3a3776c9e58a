"""A small Wan and its inputs, in a folder that `benchmarks.torch_wan` reads too."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from soraxla.checkpoints.model_folder import save_folder
from soraxla.checkpoints.wan import export_wan
from soraxla.core.config import to_dict
from soraxla.core.types import LatentGrid, PackedBatch
from soraxla.diffusion.process import Process
from soraxla.models import dit, vae
from soraxla.models.dit.config import DiTConfig, dit_config
from soraxla.models.vae.model import VAEConfig
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.packing.patchify import patchify, positions, unpatchify

TEXT = 512  # tokens: as many as Wan pads to, so that no side skips a pad

DIT = dit_config(
    "wan_1_3b", layers=8, width=256, heads=2, mlp_width=1024, text_width=256
)
VAE = VAEConfig(base_width=32, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)


def write_models(folder: Path) -> dict[str, PyTree]:
    """Writes `transformer` and `vae` for diffusers; returns parameters of `DIT`, `VAE`.

    The parameters have noise added, because weights that start at 0 hide differences.
    """
    params = {}
    for name, module, model in (("dit", dit, DIT), ("vae", vae, VAE)):
        params[name] = moved(module.init(jax.random.key(0), model))
        config: dict[str, Any] = {"kind": name, "model": to_dict(model)}
        if name == "dit":
            config |= {"process": to_dict(Process()), "text_encoder": "hashed:256"}
        save_folder(folder / "ours" / name, params[name], config)
    assert export_wan(folder / "ours", folder / "wan") == []
    return params


def moved(params: PyTree) -> PyTree:
    """Returns parameters plus normal noise of 0.02.

    The embedding of the condition mask, which Wan lacks, stays unchanged.
    """
    rng = np.random.default_rng(0)

    def move(path, leaf):
        noise = np.float32(0.02) * rng.standard_normal(leaf.shape, np.float32)
        return leaf if "known_embed" in str(path) else leaf + noise

    return jax.tree_util.tree_map_with_path(move, params)


def one_clip(grid: LatentGrid, seed: int) -> PackedBatch:
    """Returns a row of one random clip with `TEXT` random text tokens."""
    rng = np.random.default_rng(seed)
    shape = (grid.t, grid.h, grid.w, DIT.latent_channels)
    tokens = np.asarray(patchify(rng.standard_normal(shape, np.float32), DIT.patch))
    segment = Segment(
        tokens=tokens,
        positions=positions(grid, DIT.patch, DIT.rope_fps, DIT.rope_fps),
        text=rng.standard_normal((TEXT, DIT.text_width), np.float32),
        visit=seed,
        shift=float(DIT.shift),
    )
    config = PackConfig(row_length=len(tokens), text_length=TEXT, max_segments=1)
    return pack([[segment]], config)


def to_clip(tokens_BLP: Any, grid: LatentGrid) -> np.ndarray:
    """Returns tokens as the peer's latents (b, c, t, h, w), fp32."""
    tokens = np.asarray(tokens_BLP, np.float32)
    clip = np.asarray(unpatchify(tokens, grid, DIT.patch))
    return np.ascontiguousarray(clip.transpose(0, 4, 1, 2, 3))


def of_dtype(model: DiTConfig, dtype: str, **settings: Any) -> DiTConfig:
    return dataclasses.replace(model, dtype=dtype, **settings)  # pyright: ignore


def run_race(main: Callable[..., None], doc: str, dtypes: Iterable[str]) -> None:
    """Runs `main(peer, dtype, rounds, report)` with the command line's arguments."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--peer", required=True, help="its Python interpreter")
    parser.add_argument("--dtype", choices=list(dtypes), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the report goes")
    arguments = parser.parse_args()
    main(arguments.peer, arguments.dtype, arguments.rounds, arguments.json)

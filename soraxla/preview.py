"""Contact sheets for a training in progress."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import PyTree
from PIL import Image

from data_pipelines.dataset import Dataset
from soraxla.autoencode import decode_clip, encode_clip
from soraxla.contact_sheet import SheetRow, contact_sheet
from soraxla.models.vae import VAEConfig
from soraxla.pipeline import assemble
from soraxla.request import Request, SampleSettings
from soraxla.settings import to_dict
from soraxla.training.state import TrainState
from soraxla.training.steps import DiTStep, dit_params, latent_statistics
from soraxla.video_io import read_clip
from soraxla.weights import Loaded, load_vae

_SHOWN = 4


def dit_preview(step: DiTStep, dataset: Dataset) -> Callable[..., Image.Image]:
    """Generates the first four captions of the dataset at their own sizes.

    Asked with a state and, in a training with LoRA, the frozen parameters.
    """
    vae = load_vae(dataset.path / "vae")
    rows = dataset.index.slice(0, _SHOWN).to_pylist()
    requests = [
        Request(
            prompt=row["caption"],
            width=row["width"],
            height=row["height"],
            frames=row["frames"],
            fps=row["fps"] or 24.0,
        )
        for row in rows
    ]

    def preview(state: TrainState, base: PyTree = None) -> Image.Image:
        config = {
            "text_encoder": dataset.card["text_encoder"],
            "process": to_dict(step.process),
        }
        params = dit_params(state.ema, base, step)
        loaded = Loaded(params=params, model=step.model, config=config)
        videos = assemble(loaded, vae).generate_each(requests, SampleSettings(steps=20))
        return contact_sheet(
            [
                SheetRow(caption=requests[i].prompt, clips=[video])
                for i, video in sorted(videos, key=lambda result: result[0])
            ]
        )

    return preview


def vae_preview(
    model: VAEConfig, files: list[Path]
) -> Callable[[TrainState], Image.Image]:
    """Shows the first four files, at most 17 frames of each, beside their decodings."""
    clips = [crop(read_clip(path)[:17], model) for path in files[:_SHOWN]]

    def preview(state: TrainState) -> Image.Image:
        mean, std = latent_statistics(state.extra)
        cfg = dataclasses.replace(model, latent_mean=mean, latent_std=std)
        rows = []
        for path, clip in zip(files, clips, strict=False):
            back = decode_clip(state.ema, cfg, encode_clip(state.ema, cfg, clip))
            rows.append(SheetRow(caption=path.name, clips=[clip, back]))
        return contact_sheet(rows, titles=["real", "reconstructed"])

    return preview


def crop(clip: np.ndarray, model: VAEConfig) -> np.ndarray:
    """The top left of the clip that the VAE can encode: 1 + 4k frames, whole blocks."""
    frames = 1 + (len(clip) - 1) // model.temporal * model.temporal
    height, width = (n // model.spatial * model.spatial for n in clip.shape[1:3])
    return clip[:frames, :height, :width]

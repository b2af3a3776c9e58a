"""Contact sheets for a training in progress."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import PyTree
from PIL import Image

from data_pipelines.dataset import Dataset
from soraxla.checkpoints.load import load_vae
from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.generation.pipeline import Pipeline
from soraxla.generation.request import MAX_WORDS, Request, SamplingConfig
from soraxla.generation.vae_streaming import decode_clip, encode_clip
from soraxla.media.contact_sheet import SheetRow, contact_sheet
from soraxla.media.read import read_clip
from soraxla.models.dit.lora import merged
from soraxla.models.vae.model import VAEConfig
from soraxla.models.vae.statistics import latent_statistics
from soraxla.training.state import TrainState
from soraxla.training.steps import DiTStepConfig

_SHOWN, _FRAMES = 4, 17


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A text encoder that knows a dataset's embeddings, and nothing else.

    The one they were made by is large, and need not be on this machine.
    """

    name: str
    width: int
    known: Mapping[str, np.ndarray]

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.known[text] for text in texts]


def dit_preview(step: DiTStepConfig, dataset: Dataset) -> Callable[..., Image.Image]:
    """Generates the first four captions of the dataset at their own sizes.

    Asked with a state and, in a training with LoRA, the frozen parameters.
    """
    vae = load_vae(dataset.path / "vae")

    @functools.cache
    def shown() -> tuple[list[Request], _Stored]:
        rows = dataset.index.slice(0, _SHOWN).to_pylist()
        requests = [
            Request(
                prompt=" ".join(row["caption"].split()[:MAX_WORDS]),
                width=row["width"],
                height=row["height"],
                frames=row["frames"],
                fps=row["fps"] or 24.0,
            )
            for row in rows
        ]
        known = {r.prompt: dataset.read(i).text for i, r in enumerate(requests)}
        known[""] = dataset.empty_text
        card = dataset.card
        return requests, _Stored(card["text_encoder"], card["text_width"], known)

    def preview(state: TrainState, base: PyTree = None) -> Image.Image:
        requests, encoder = shown()
        params = merged(state.ema, base, step.lora)
        pipeline = Pipeline(
            dit=LoadedModel(params=params, model=step.model, config={}),
            vae=vae,
            process=step.process,
            text_encoder=encoder,
        )
        videos = pipeline.generate_each(requests, SamplingConfig(steps=20))
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

    @functools.cache
    def clips() -> dict[Path, np.ndarray]:
        found = ((path, crop(read_clip(path, _FRAMES), model)) for path in files)
        return dict(islice(((path, clip) for path, clip in found if clip.size), _SHOWN))

    def preview(state: TrainState) -> Image.Image:
        mean, std = latent_statistics(state.extra)
        cfg = dataclasses.replace(model, latent_mean=mean, latent_std=std)
        rows = []
        for path, clip in clips().items():
            back = decode_clip(state.ema, cfg, encode_clip(state.ema, cfg, clip))
            rows.append(SheetRow(caption=path.name, clips=[clip, back]))
        return contact_sheet(rows, titles=["real", "reconstructed"])

    return preview


def crop(clip: np.ndarray, model: VAEConfig) -> np.ndarray:
    """The top left of the clip that the VAE can encode: 1 + 4k frames, whole blocks."""
    frames = 1 + (len(clip) - 1) // model.temporal * model.temporal
    height, width = (n // model.spatial * model.spatial for n in clip.shape[1:3])
    return clip[:frames, :height, :width]

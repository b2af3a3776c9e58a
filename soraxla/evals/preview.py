"""Contact sheets of a training in progress."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from data_pipelines.dataset import Dataset
from soraxla.checkpoints.load import load_vae
from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.evals.evaluator import EvaluationContext, Evaluator, Metric
from soraxla.generation.pipeline import Pipeline
from soraxla.generation.request import MAX_WORDS, Request, SamplingConfig
from soraxla.generation.vae_streaming import decode_clip, encode_clip
from soraxla.media.contact_sheet import SheetRow, contact_sheet
from soraxla.media.read import read_clip
from soraxla.models.vae.model import VAEConfig
from soraxla.parallel.multihost import everywhere, is_main

_SHOWN, _FRAMES = 4, 17


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview(Evaluator):
    """A contact sheet in `previews/`; it has no metrics.

    A transformer generates the first four captions of its dataset at their own sizes;
    a VAE decodes at most 17 frames of each of its first four files.
    """

    def run(self, context: EvaluationContext) -> dict[str, Metric]:
        """Writes `previews/step_STEP.png` and returns nothing."""
        sheet = preview_sheet(context)
        if is_main():
            folder = context.workdir / "previews"
            folder.mkdir(exist_ok=True)
            sheet.save(folder / f"step_{context.step:07d}.png")
        return {}


def preview_sheet(context: EvaluationContext) -> Image.Image:
    """Returns the contact sheet of a training; all processes must call this."""
    sheet = _vae_sheet if isinstance(context.model, VAEConfig) else _dit_sheet
    return sheet(context)


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A text encoder that looks embeddings up in a dataset.

    The dataset's text encoder is large, and need not be on this machine.
    """

    name: str
    width: int
    stored: Mapping[str, np.ndarray]

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.stored[text] for text in texts]


def _dit_sheet(context: EvaluationContext) -> Image.Image:
    dataset, model, process = context.dataset, context.model, context.process
    assert dataset is not None and process is not None
    requests, encoder = everywhere(lambda: _requests(dataset))
    pipeline = Pipeline(
        dit=LoadedModel(params=context.params, model=model, config={}),
        vae=everywhere(lambda: load_vae(dataset.path / "vae")),
        process=process,
        text_encoder=encoder,
    )
    videos = pipeline.generate_each(requests, SamplingConfig(steps=20))
    return contact_sheet(
        [
            SheetRow(caption=requests[i].prompt, clips=[video])
            for i, video in sorted(videos, key=lambda result: result[0])
        ]
    )


def _requests(dataset: Dataset) -> tuple[list[Request], _Stored]:
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
    stored = {r.prompt: dataset.read(i).text for i, r in enumerate(requests)}
    stored[""] = dataset.empty_text
    card = dataset.card
    return requests, _Stored(card["text_encoder"], card["text_width"], stored)


def _vae_sheet(context: EvaluationContext) -> Image.Image:
    params, model = context.params, context.model
    assert isinstance(model, VAEConfig)

    def shown() -> list[tuple[str, np.ndarray]]:
        found = (
            (path, crop(read_clip(path, _FRAMES), model)) for path in context.media
        )
        clips = ((path.name, clip) for path, clip in found if clip.size)
        return list(islice(clips, _SHOWN))

    rows = []
    for name, clip in everywhere(shown):
        back = decode_clip(params, model, encode_clip(params, model, clip))
        rows.append(SheetRow(caption=name, clips=[clip, back]))
    return contact_sheet(rows, titles=["real", "reconstructed"])


def crop(clip: np.ndarray, model: VAEConfig) -> np.ndarray:
    """Returns the clip's top left that the VAE encodes: 1 + 4k frames, whole blocks."""
    frames = 1 + (len(clip) - 1) // model.temporal * model.temporal
    height, width = (n // model.spatial * model.spatial for n in clip.shape[1:3])
    return clip[:frames, :height, :width]

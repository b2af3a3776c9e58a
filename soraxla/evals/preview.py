"""Contact sheets of a training in progress."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

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
_TRIES = 64  # samples to look at for a caption that is not shown yet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview(Evaluator):
    """A contact sheet in `previews/`; it has no metrics.

    A transformer generates the captions of four samples, from short to long ones, at
    their own sizes; the samples themselves are beside them. A VAE decodes at most 17
    frames of each of four files. All previews of a training show the same.
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
    samples = shown_samples(dataset)
    requests, encoder = everywhere(lambda: _requests(dataset, samples))
    pipeline = Pipeline(
        dit=LoadedModel(params=context.params, model=model, config={}),
        vae=everywhere(lambda: load_vae(dataset.path / "vae")),
        process=process,
        text_encoder=encoder,
    )
    videos = dict(pipeline.generate_each(requests, SamplingConfig(steps=20)))
    latents = everywhere(lambda: [_widened(dataset.read(i).latents) for i in samples])
    rows = []
    for i, request in enumerate(requests):
        real = pipeline.context(request).decode(latents[i], request.frames)
        clips = [videos[i], np.asarray(real)]
        rows.append(SheetRow(caption=request.prompt, clips=clips))
    return contact_sheet(rows, titles=["generated", "in the dataset"])


def _widened(stored: np.ndarray) -> np.ndarray:
    """Returns stored bfloat16 numbers in float32, as an encoder gives them."""
    return stored.astype(np.float32)


def shown_samples(dataset: Dataset) -> list[int]:
    """Returns the samples that previews show, a few of spread sizes and captions.

    They are the middle ones of as many parts of the samples, which are ordered by
    tokens; a sample whose caption is shown gives way to the next one.
    """
    sizes, captions = dataset.sizes, dataset.index["caption"]
    order = np.argsort(sizes.t.astype(np.int64) * sizes.h * sizes.w, kind="stable")
    count = min(_SHOWN, len(order))
    chosen: dict[str, int] = {}
    for part in range(count):
        first = (2 * part + 1) * len(order) // (2 * count)
        for i in order[first : first + _TRIES]:
            caption = captions[int(i)].as_py()
            if caption not in chosen:
                chosen[caption] = int(i)
                break
    return list(chosen.values())


def _requests(
    dataset: Dataset, samples: Sequence[int]
) -> tuple[list[Request], _Stored]:
    rows = dataset.index.take(samples).to_pylist()
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
    texts = [_widened(dataset.read(i).text) for i in samples]
    stored = {r.prompt: text for r, text in zip(requests, texts, strict=True)}
    stored[""] = _widened(dataset.empty_text)
    card = dataset.card
    return requests, _Stored(card["text_encoder"], card["text_width"], stored)


def _vae_sheet(context: EvaluationContext) -> Image.Image:
    params, model = context.params, context.model
    assert isinstance(model, VAEConfig)

    def shown() -> list[tuple[str, np.ndarray]]:
        found = (
            (path, crop(read_clip(path, _FRAMES), model))
            for path in _spread(context.media)
        )
        clips = ((path.name, clip) for path, clip in found if clip.size)
        return list(islice(clips, _SHOWN))

    rows = []
    for name, clip in everywhere(shown):
        back = decode_clip(params, model, encode_clip(params, model, clip))
        rows.append(SheetRow(caption=name, clips=[clip, back]))
    return contact_sheet(rows, titles=["real", "reconstructed"])


def _spread(files: Sequence[Path]) -> list[Path]:
    """Returns the files in an order that begins with a few from all over the list."""
    count = min(_SHOWN, len(files))
    first = [(2 * part + 1) * len(files) // (2 * count) for part in range(count)]
    return [files[i] for i in dict.fromkeys([*first, *range(len(files))])]


def crop(clip: np.ndarray, model: VAEConfig) -> np.ndarray:
    """Returns the clip's top left that the VAE encodes: 1 + 4k frames, whole blocks."""
    frames = 1 + (len(clip) - 1) // model.temporal * model.temporal
    height, width = (n // model.spatial * model.spatial for n in clip.shape[1:3])
    return clip[:frames, :height, :width]

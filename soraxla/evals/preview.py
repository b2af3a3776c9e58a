"""Contact sheets and videos of a training in progress."""

import dataclasses
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from data_pipelines.dataset import Dataset
from soraxla.evals.evaluator import EvaluationContext, Evaluator, Metric
from soraxla.evals.training_pipeline import decoded, pipeline_of
from soraxla.generation.request import SamplingConfig
from soraxla.generation.vae_streaming import decode_clip, encode_clip
from soraxla.media.contact_sheet import SheetRow, contact_sheet
from soraxla.media.read import read_clip
from soraxla.media.video_grid import video_grid
from soraxla.media.write import write_video
from soraxla.models.vae.model import VAEConfig
from soraxla.parallel.multihost import everywhere, is_main

_SHOWN, _FRAMES = 4, 17
_FPS = 12.0  # of the video, whose clips have several rates
_TRIES = 64  # samples to look at for a caption that is not shown yet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview(Evaluator):
    """A contact sheet and a video in `previews/`; it has no metrics.

    A transformer generates the captions of four samples, from short to long ones, at
    their own sizes; the samples themselves are beside them. A VAE decodes at most 17
    frames of each of four files. All previews of a training show the same.
    """

    def run(self, context: EvaluationContext) -> dict[str, Metric]:
        """Writes `previews/step_STEP.png` and `.webp`, and returns nothing.

        There is no `.webp` of pictures.
        """
        rows, titles = preview_rows(context)
        if is_main():
            sheet = _sheet(context)
            sheet.parent.mkdir(exist_ok=True)
            contact_sheet(rows, titles=titles).save(sheet)
            clips = [[c for c in row.clips if c is not None] for row in rows]
            if any(len(clip) > 1 for row in clips for clip in row):
                write_video(sheet.with_suffix(".webp"), video_grid(clips), _FPS)
        return {}

    def picture(self, context: EvaluationContext) -> Path:
        """Returns the video, or the contact sheet of pictures."""
        video = _sheet(context).with_suffix(".webp")
        return video if video.exists() else _sheet(context)


def _sheet(context: EvaluationContext) -> Path:
    return context.workdir / "previews" / f"step_{context.step:07d}.png"


def preview_rows(context: EvaluationContext) -> tuple[list[SheetRow], list[str]]:
    """Returns the rows of a preview and their titles; all processes must call this."""
    of = _vae_rows if isinstance(context.model, VAEConfig) else _dit_rows
    return of(context)


def _dit_rows(context: EvaluationContext) -> tuple[list[SheetRow], list[str]]:
    assert context.dataset is not None
    samples = shown_samples(context.dataset)
    pipeline, requests = pipeline_of(context, context.dataset, samples)
    videos = dict(pipeline.generate_each(requests, SamplingConfig(steps=20)))
    reals = decoded(pipeline, context.dataset, samples, requests)
    rows = [
        SheetRow(caption=request.prompt, clips=[videos[i], real])
        for i, (request, real) in enumerate(zip(requests, reals, strict=True))
    ]
    return rows, ["generated", "in the dataset"]


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


def _vae_rows(context: EvaluationContext) -> tuple[list[SheetRow], list[str]]:
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
    return rows, ["real", "reconstructed"]


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

"""The pipeline of a training in progress, for the captions of its dataset."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from data_pipelines.dataset import Dataset
from soraxla.checkpoints.load import load_vae
from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.evals.evaluator import EvaluationContext
from soraxla.generation.pipeline import Pipeline
from soraxla.generation.request import MAX_WORDS, Request
from soraxla.parallel.multihost import everywhere


def pipeline_of(
    context: EvaluationContext, dataset: Dataset, samples: Sequence[int]
) -> tuple[Pipeline, list[Request]]:
    """Returns a pipeline of the EMA, and a request for a clip like each sample.

    The pipeline knows only the texts of these samples. All processes must call it.
    """
    assert context.process is not None
    requests, encoder = everywhere(lambda: _requests(dataset, samples))
    pipeline = Pipeline(
        dit=LoadedModel(params=context.params, model=context.model, config={}),
        vae=everywhere(lambda: load_vae(dataset.path / "vae")),
        process=context.process,
        text_encoder=encoder,
    )
    return pipeline, requests


def decoded(
    pipeline: Pipeline,
    dataset: Dataset,
    samples: Sequence[int],
    requests: Sequence[Request],
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Yields the samples' latents, decoded; all processes must call it."""
    for i, request in zip(samples, requests, strict=True):
        latents = everywhere(lambda i=i: _widened(dataset.read(i).latents))
        yield np.asarray(pipeline.context(request).decode(latents, request.frames))


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


def _widened(stored: np.ndarray) -> np.ndarray:
    """Returns stored bfloat16 numbers in float32, as an encoder gives them."""
    return stored.astype(np.float32)

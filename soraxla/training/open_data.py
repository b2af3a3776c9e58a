"""The data of a transformer's training: one prepared dataset, or several by weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.dataset import Dataset, open_dataset
from data_pipelines.mixture import mixed
from data_pipelines.synthetic import synthetic, tokens_of
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.training.experiment import DiTTrainingConfig

# A place, several places of equal weight, or places with their weights.
Data = str | Path | Sequence[str | Path] | Mapping[Any, float]


class OpenedData(NamedTuple):
    """All samples of a training, and words on them for its summary."""

    dataset: Dataset
    words: str


def weights_of(data: Data) -> dict[Path, float]:
    """Returns the place of each dataset with its weight.

    Raises:
        UserError: there is none, or one is named twice.
    """
    if isinstance(data, str | Path):
        return {Path(data): 1.0}
    if isinstance(data, Mapping):
        pairs = [(Path(place), float(weight)) for place, weight in data.items()]
    else:
        pairs = [(Path(place), 1.0) for place in data]
    found: dict[Path, float] = {}
    for place, weight in pairs:
        if place in found:
            raise UserError(f"--data {place}: is named twice; give it one weight")
        found[place] = weight
    if not found:
        raise UserError("data names no dataset; name at least one")
    return found


def only_place(data: Data, kind: str) -> Path:
    """Returns the place of the data; raises UserError if there are several."""
    places = list(weights_of(data))
    if len(places) > 1:
        raise UserError(
            f"--data is given {len(places)} times, but a {kind} trains on one folder"
        )
    if tokens_of(places[0]):
        raise UserError(f"--data {places[0]}: trains a transformer, not a {kind}")
    return places[0]


def open_data(data: Data, settings: Mapping[str, Any]) -> OpenedData:
    """Opens the datasets of a transformer's training.

    Args:
        settings: of the training; the widths of its model are those of synthetic data.

    Raises:
        UserError: one is damaged, or two do not go together.
    """
    weights = weights_of(data)
    for place in weights:
        if tokens := tokens_of(place):
            if len(weights) > 1:
                raise UserError(f"--data {place}: cannot be mixed; name nothing else")
            return _synthetic(tokens, build(DiTTrainingConfig, settings))
    opened = {place: (open_dataset(place), w) for place, w in weights.items()}
    dataset = mixed(opened)
    card = dataset.card
    counts = {place: f"{len(part):,} samples" for place, (part, _) in opened.items()}
    for place, share in zip(weights, card.get("weights", ()), strict=False):
        counts[place] += f" for {share:.4g} of the visits"
    places = "; ".join(f"{place}: {count}" for place, count in counts.items())
    return OpenedData(
        dataset,
        f"{places}, {card['latent_channels']} latent channels, text encoder "
        f"{card['text_encoder']} of width {card['text_width']}",
    )


def _synthetic(tokens: int, cfg: DiTTrainingConfig) -> OpenedData:
    model = cfg.step.model
    dataset = synthetic(
        tokens,
        cfg.pack,
        channels=model.latent_channels,
        text_width=model.text_width,
        patch=model.patch,
        actions=model.controls.actions,
        camera=model.controls.camera,
    )
    return OpenedData(
        dataset,
        f"synthetic, random latents and text: clips of {tokens:,} tokens; no evaluator "
        "runs, and the model is of no use",
    )

"""The part of `train.json` on data: which datasets, by what weights."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.dataset import Dataset

# From which epoch on how many samples of each dataset are visited, if one has grown.
EPOCHS = "data_epochs"
DATA_KEYS = ("data", "data_weights", EPOCHS)


def data_record(dataset: Dataset) -> dict[str, Any]:
    """Returns the entries of `train.json` on the data of a transformer.

    `data` is the fingerprint of the dataset, or those of several, which have
    `data_weights` too, their shares of the visits. `data_epochs` are those of
    `growth.py`.
    """
    card = dataset.card
    record = {"data": card.get("fingerprint")}
    record |= {"data_weights": card["weights"]} if "weights" in card else {}
    return record | ({EPOCHS: card[EPOCHS]} if EPOCHS in card else {})


def other_data(found: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Returns words on the data of a record, if they are not those of the settings."""
    was, now = found.get("data"), _state_of(settings, found.get("data"))
    weights, other = (x.get("data_weights") or [1.0] for x in (found, settings))
    if len(weights) != len(other):
        return (
            f"on {_datasets(len(weights))}, not {len(other)}; name the same --data as "
            "at its beginning"
        )
    if was != now:
        which = "this --data"
        if isinstance(was, list) and isinstance(now, list):
            pairs = enumerate(zip(was, now, strict=True), 1)
            number = next(i for i, (one, two) in pairs if one != two)
            which = f"--data {number} of {len(now)}"
        return (
            f"on another dataset than {which}, or its files have changed since; name "
            "the one of the training"
        )
    if weights != other:
        return (
            f"with the weights {_listed(weights)} of its datasets, not "
            f"{_listed(other)}; name the same weights"
        )
    return None


def _state_of(settings: Mapping[str, Any], was: Any) -> Any:
    """Returns the data, but as they were if they have only grown since."""
    now, stages = settings.get("data"), settings.get(EPOCHS)
    if stages is None:
        return now
    several = isinstance(now, list)
    olds, news = (was, now) if several else ([was], [now])
    if not isinstance(olds, list) or len(olds) != len(news):
        return now
    states = [
        old if any(stage["fingerprint"] == old for stage in own) else new
        for old, new, own in zip(olds, news, stages, strict=True)
    ]
    return states if several else states[0]


def _datasets(count: int) -> str:
    return "1 dataset" if count == 1 else f"{count} datasets"


def _listed(weights: list[float]) -> str:
    return " and ".join(f"{weight:g}" for weight in weights)

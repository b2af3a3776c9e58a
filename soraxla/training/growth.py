"""Datasets that `prepare` has extended since a training began.

Epochs of which a visit has been scheduled stay as they were. The first epoch after them
visits the new samples too, and `train.json` records which one it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_pipelines.dataset import Dataset
from data_pipelines.held_out import split
from data_pipelines.mixture import Mixture
from soraxla.checkpoints.training_folder import is_training_folder, read_settings
from soraxla.core.paths import Place
from soraxla.packing.schedule import SCHEDULE_START, SchedulePosition, visits_scheduled
from soraxla.packing.visit_order import Stage, VisitOrder
from soraxla.training.data_record import EPOCHS
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.saving import saved_position

# Of each dataset: from an epoch on, its first so many samples are visited.
Stages = list[list[dict[str, Any]]]


def as_trained(
    dataset: Dataset, cfg: DiTTrainingConfig, workdir: Place | None
) -> tuple[Dataset, str]:
    """Returns the data with the epochs that a training folder records, and words.

    The words say which datasets have grown since; they are empty if none has.
    """
    if workdir is None or not is_training_folder(workdir):
        return dataset, ""
    record, parts = read_settings(workdir), _parts(dataset)
    stages = _recorded(record, parts)
    if stages is None:  # other datasets; the record is compared later
        return dataset, ""
    grown = [
        k
        for k, part in enumerate(parts)
        if stages[k][-1]["fingerprint"] != part.card.get("fingerprint")
    ]
    if grown:
        dataset = _staged(dataset, stages)
        training, _ = split(dataset, cfg.eval_share)
        position = saved_position(workdir)
        start = SCHEDULE_START if position is None else SchedulePosition(**position)
        visits = visits_scheduled(
            training.sizes,
            cfg.pack,
            seed=cfg.step.seed,
            batch_rows=cfg.batch_rows,
            position=start,
        )
        order = training.sizes.visit_order
        for k in grown:
            epoch = order.streams[k].next_epoch(order.rank(k, visits))
            stages[k].append(_stage(parts[k], epoch))
    if all(len(of_dataset) == 1 for of_dataset in stages):
        return dataset, ""
    words = (
        f"{parts[k].path}: has {now['samples'] - before['samples']} new samples, "
        f"which are visited from epoch {now['epoch']} on"
        for k in grown
        for before, now in [stages[k][-2:]]
    )
    return _staged(dataset, stages), "; ".join(words)


def _parts(dataset: Dataset) -> Sequence[Dataset]:
    return dataset.parts if isinstance(dataset, Mixture) else [dataset]


def _stage(part: Dataset, epoch: int) -> dict[str, Any]:
    fingerprint = part.card.get("fingerprint")
    return {"epoch": epoch, "samples": len(part), "fingerprint": fingerprint}


def _recorded(record: Mapping[str, Any], parts: Sequence[Dataset]) -> Stages | None:
    """Returns the recorded stages; None unless each dataset has been one of its states.

    A dataset that has not grown is not recorded with its number of samples.
    """
    data = record.get("data")
    prints = data if isinstance(data, list) else [data]
    if len(prints) != len(parts):
        return None
    stages: Stages = []
    for k, (part, fingerprint) in enumerate(zip(parts, prints, strict=True)):
        states = {e["fingerprint"]: e["samples"] for e in part.card.get("earlier", ())}
        states[part.card.get("fingerprint")] = len(part)
        if fingerprint not in states:
            return None
        recorded = record.get(EPOCHS)
        begun = {
            "epoch": 0,
            "samples": states[fingerprint],
            "fingerprint": fingerprint,
        }
        stages.append([*recorded[k]] if recorded else [begun])
    return stages


def _staged(dataset: Dataset, stages: Stages) -> Dataset:
    """Returns the data that are visited by stages, which its card holds."""
    order = dataset.sizes.visit_order
    streams = [
        replace(stream, stages=tuple(Stage(s["epoch"], s["samples"]) for s in own))
        for stream, own in zip(order.streams, stages, strict=True)
    ]
    sizes = replace(dataset.sizes, order=VisitOrder(streams=tuple(streams)))
    return replace(dataset, sizes=sizes, card=dataset.card | {EPOCHS: stages})

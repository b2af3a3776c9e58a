"""Several prepared datasets as one, each with a share of the visits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipelines.dataset import Dataset, Record
from soraxla.core.errors import UserError
from soraxla.packing.conditioning import Stored
from soraxla.packing.schedule_index import ScheduleIndex
from soraxla.packing.visit_order import Stage, Stream, VisitOrder, shares

# Entries of the cards, in which all datasets of a mixture agree.
_EQUAL = {
    "vae_sha256": "VAE",
    "latent_channels": "number of latent channels",
    "patch": "patch",
    "text_encoder": "text encoder",
    "text_width": "text width",
    "actions": "list of actions",
    "camera": "answer to whether clips have a camera",
    "features": "kind of features",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture(Dataset):
    """The samples of several datasets, numbered one dataset after the other.

    A sample's `shard` is the number of its dataset, and its `record` its number there.
    """

    parts: tuple[Dataset, ...]

    def read(self, i: int) -> Record:
        """Reads sample i; see `Dataset.read`."""
        return self.parts[self.shard[i]].read(int(self.record[i]))

    def _index_rows(self, columns: list[str] | None) -> pa.Table:
        tables = [part._index_rows(columns) for part in self.parts]
        table = pa.concat_tables(tables, promote_options="default")
        return table if self.rows is None else table.take(self.rows)


def mixed(datasets: Mapping[Path, tuple[Dataset, float]]) -> Dataset:
    """Returns the datasets as one, with their weights; a single one as it is.

    The folder, the VAE and the empty text are those of the first.

    Raises:
        UserError: two datasets do not go together, or a weight is not above 0.
    """
    parts = [dataset for dataset, _ in datasets.values()]
    visits = shares([weight for _, weight in datasets.values()])
    if len(parts) == 1:
        return parts[0]
    for other in parts[1:]:
        _check_pair(parts[0], other)
    return Mixture(
        path=parts[0].path,
        card=_card(parts, visits),
        sizes=_sizes(parts, visits),
        shard=np.repeat(np.arange(len(parts), dtype=np.int32), [*map(len, parts)]),
        record=np.concatenate([np.arange(len(part)) for part in parts]),
        held_out=np.concatenate([part.held_out for part in parts]),
        empty_text=parts[0].empty_text,
        parts=tuple(parts),
        _reader=parts[0]._reader,
    )


def _check_pair(first: Dataset, other: Dataset) -> None:
    for key, what in _EQUAL.items():
        one, two = (_compared(key, dataset.card.get(key)) for dataset in (first, other))
        if one != two:
            raise UserError(
                f"--data {first.path} and {other.path}: have not the same {what} "
                f"({one} and {two}); prepare one of them again like the other"
            )


def _compared(key: str, value: Any) -> Any:
    # The folder of an encoder may be anywhere.
    if key == "text_encoder":
        return value.partition(":")[0]
    return f"{value[:12]}…" if key == "vae_sha256" else value


def _card(parts: Sequence[Dataset], visits: Sequence[int]) -> dict[str, Any]:
    cards = [part.card for part in parts]
    return cards[0] | {
        "samples": sum(card["samples"] for card in cards),
        "conditions": any(card["conditions"] for card in cards),
        "fingerprint": [card.get("fingerprint") for card in cards],
        "weights": [number / sum(visits) for number in visits],
    }


def _sizes(parts: Sequence[Dataset], visits: Sequence[int]) -> ScheduleIndex:
    sizes, firsts = [part.sizes for part in parts], [0, *accumulate(map(len, parts))]
    columns = {
        name: np.concatenate([getattr(size, name) for size in sizes])
        for name, column in vars(sizes[0]).items()
        if isinstance(column, np.ndarray)
    }
    streams = [
        Stream(first=first, stages=(Stage(0, len(part)),), visits=own)
        for first, part, own in zip(firsts, parts, visits, strict=False)
    ]
    return replace(
        sizes[0],
        **columns,
        stored=_stored(sizes),
        order=VisitOrder(streams=tuple(streams)),
    )


def _stored(sizes: Sequence[ScheduleIndex]) -> Stored | None:
    """Returns the conditions of all samples; a dataset without any has none."""
    if all(size.stored is None for size in sizes):
        return None
    columns = [
        size.stored or Stored(*(np.zeros(len(size), np.int8) for _ in Stored._fields))
        for size in sizes
    ]
    return Stored(*map(np.concatenate, zip(*columns, strict=True)))

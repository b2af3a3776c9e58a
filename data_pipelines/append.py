"""Files that were added to the folder of a finished dataset, which become new shards.

The dataset's shards and the rows of its index stay as they are. The card, written last,
counts the new ones; rows and skipped files that it does not count do not exist.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines import records
from data_pipelines.sources.files import Folder, fingerprint
from data_pipelines.sources.media import Source
from soraxla.core.errors import UserError

_ROWS = 1 << 17  # of the index that are read at once


@dataclass(frozen=True, kw_only=True)
class Base:
    """A finished dataset that is extended.

    Attributes:
        card: its `dataset.json`.
        skipped: its files that could not be used.
        shard: the number of the first shard that is new.
    """

    card: dict[str, Any]
    skipped: list[dict[str, str]]
    shard: int

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """The states of the dataset before now, the oldest first."""
        now = {name: self.card[name] for name in ("fingerprint", "samples")}
        return [*self.card.get("earlier", ()), now]


def identity_of(samples: Source, settings: dict[str, Any], before: str | None) -> str:
    """Returns the hash of a source and of settings, after a dataset that is extended.

    Args:
        before: the fingerprint of that dataset; None for a dataset made at once.
    """
    what = [records.FORMAT, fingerprint(samples), settings]
    identity = _sha256(json.dumps(what, sort_keys=True))
    return identity if before is None else _sha256(f"{before} {identity}")


def before(card: dict[str, Any]) -> str | None:
    """Returns the fingerprint of the dataset that a dataset extended; None if none."""
    earlier = card.get("earlier")
    return earlier[-1]["fingerprint"] if earlier else None


def open_base(
    out: Path, card: dict[str, Any], samples: Source, settings: dict[str, Any]
) -> tuple[Folder, Base] | None:
    """Returns the files that a dataset lacks, and the dataset; None if it differs.

    The files that it has must be those that it was made of, in their order.
    """
    if not isinstance(samples, Folder):
        return None
    shard, known = 0, set()
    for batch in _rows(out / records.INDEX, card["samples"], ["source", "shard"]):
        known.update(batch["source"].to_pylist())
        shard = max([shard, *(1 + number for number in batch["shard"].to_pylist())])
    with (out / records.SKIPPED).open(encoding="utf-8") as lines:
        skipped = [json.loads(line) for line in islice(lines, card["skipped"])]
    known.update(entry["file"] for entry in skipped)
    old = Folder(item for item in samples if item.uid in known)
    new = Folder(item for item in samples if item.uid not in known)
    if not new or identity_of(old, settings, before(card)) != card.get("fingerprint"):
        return None
    return new, Base(card=card, skipped=skipped, shard=shard)


def copy_rows(out: Path, base: Base, index: records.IndexWriter) -> None:
    """Writes the rows of the dataset that is extended."""
    for batch in _rows(out / records.INDEX, base.card["samples"], None):
        index.write_table(pa.Table.from_batches([batch]))


def _rows(
    file: Path, count: int, columns: list[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yields the first `count` rows of an index in parts."""
    try:
        with pq.ParquetFile(file) as index:
            for batch in index.iter_batches(_ROWS, columns=columns):
                yield batch.slice(0, count)
                count -= min(count, batch.num_rows)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: is damaged ({reason}); copy it again") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

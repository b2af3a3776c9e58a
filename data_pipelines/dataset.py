"""A prepared dataset: its card and sizes in memory, its samples read on demand."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError

from data_pipelines import records
from data_pipelines.sources.media import EVAL, TRAIN
from soraxla.core.errors import UserError
from soraxla.packing.conditioning import Stored
from soraxla.packing.schedule_index import ScheduleIndex

_OPEN_SHARDS = 256  # as many as a process may open on every system, with other files
_ROWS = 1 << 20  # of the index that are read at once
_EXPONENT = np.uint16(0x7F80)  # of a bfloat16: all ones in what is not finite
_PLACES = ("shard", "record")
_SIZES = ("t", "h", "w", "fps", "text_length", "height", "width")


STEERING = ("actions", "camera")


class Tensors(Mapping):
    """A record's bfloat16 tensors by name; each is checked at its use."""

    def __init__(self, tensors: dict[str, np.ndarray], file: Path, record: int):
        self._tensors, self._file, self._record = tensors, file, record

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        if not _is_finite(tensor):
            reason = f"record {self._record}: {name} are not finite"
            raise _damaged(self._file, reason)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Record(NamedTuple):
    """A sample's tensors, in bfloat16 as they are stored; steering is float32."""

    latents: Float[np.ndarray, "t h w c"]
    text: Float[np.ndarray, "m e"]
    conditions: Mapping  # of `encode_conditions`, by name; checked at their use
    steering: dict[str, np.ndarray]  # `actions` (f, a) and `camera` (f, 4, 4), if any

    @property
    def features(self) -> Float[np.ndarray, "t h w f"] | None:
        """The features of each token of the whole clip, if they are stored."""
        return self.conditions.get(records.FEATURES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A prepared dataset: the card and the sizes in memory, latents read on demand."""

    path: Path
    card: dict[str, Any]  # dataset.json
    sizes: ScheduleIndex
    shard: Int[np.ndarray, " n"]
    record: Int[np.ndarray, " n"]
    held_out: Bool[np.ndarray, " n"]  # samples of the split "eval"
    empty_text: Float[np.ndarray, "m e"]
    rows: Int[np.ndarray, " n"] | None = None  # of the index; None is all of them
    _reader: Callable[[int], ArrayRecordReader] = field(repr=False)

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def index(self) -> pa.Table:
        """The samples' index with captions and sources; read at its first use."""
        return self._index_rows(None)

    def sources(self) -> list[str]:
        """Returns the name of each sample's source, relative to the source folder."""
        return self._index_rows(["source"])["source"].to_pylist()

    def subset(self, samples: Int[np.ndarray, " k"]) -> "Dataset":
        """Returns the dataset of some of the samples, numbered from 0."""
        return replace(
            self,
            sizes=self.sizes.subset(samples),
            shard=self.shard[samples],
            record=self.record[samples],
            held_out=self.held_out[samples],
            rows=samples if self.rows is None else self.rows[samples],
        )

    def _index_rows(self, columns: list[str] | None) -> pa.Table:
        table = _read_index(self.path / records.INDEX, columns)
        # Rows of files that have been added since may follow.
        rows = self.rows
        return table.slice(0, len(self)) if rows is None else table.take(rows)

    def read(self, i: int) -> Record:
        """Reads sample i.

        Raises:
            UserError: the record is damaged or differs from the index.
        """
        file = self.path / records.shard_name(int(self.shard[i]))
        try:
            # ArrayRecord compares the record's hash with the one that it stores.
            data = self._reader(int(self.shard[i])).read([int(self.record[i])])[0]
            tensors = records.decode_record(data)
            shapes = tensors["latents"].shape, tensors["text"].shape
        except (RuntimeError, SafetensorError, KeyError, ValueError) as error:
            _require(file)
            raise _damaged(file, f"record {self.record[i]}: {error}") from None
        sizes = self.sizes
        grid = (sizes.t[i], sizes.h[i], sizes.w[i], self.card["latent_channels"])
        length = (sizes.text_length[i], self.card["text_width"])
        if shapes != (grid, length):
            raise _damaged(
                file,
                f"record {self.record[i]}: holds {shapes[0]} and {shapes[1]}, the"
                f" index says {tuple(map(int, grid))} and {tuple(map(int, length))}",
            )
        record = Tensors(tensors, file, int(self.record[i]))
        steering = {k: record[k].astype(np.float32) for k in STEERING if k in record}
        return Record(record["latents"], record["text"], record, steering)


def open_dataset(path: str | Path) -> Dataset:
    """Opens a folder written by `data_pipelines.prepare`.

    Raises:
        UserError: the folder or one of its files is missing, damaged, of another
            format, or contradicts the others.
    """
    path = Path(path)
    card = records.read_card(path)
    for key, kind in (
        ("samples", int),
        ("latent_channels", int),
        ("text_width", int),
        ("patch", list),
        ("vae_sha256", str),
        ("conditions", bool),
        ("actions", list),
        ("camera", bool),
    ):
        if not isinstance(card.get(key), kind):
            raise _damaged(path / records.CARD, f"no {key}")
    columns = _columns(path / records.INDEX, card["samples"])
    _check_shards(path, columns["shard"])
    empty_text = _read_empty_text(path / records.EMPTY_TEXT)
    reader = lru_cache(_OPEN_SHARDS)(partial(_open_shard, path))
    sizes: dict[str, Any] = {name: columns[name] for name in _SIZES}
    return Dataset(
        path=path,
        card=card,
        sizes=ScheduleIndex(
            **sizes,
            empty_text_length=len(empty_text),
            patch=tuple(card["patch"]),
            stored=Stored(*(columns[name] for name in Stored._fields))
            if card["conditions"]
            else None,
        ),
        shard=columns["shard"],
        record=columns["record"],
        held_out=columns["held_out"],
        empty_text=empty_text,
        _reader=reader,
    )


def _open_shard(path: Path, shard: int) -> ArrayRecordReader:
    """Opens a shard, for several threads; it is closed when none uses it any more."""
    # Reads are in random order, so reading ahead in the file is waste.
    file = str(path / records.shard_name(shard))
    return ArrayRecordReader(file, "readahead_buffer_size:0")


def _columns(file: Path, samples: int) -> dict[str, np.ndarray]:
    """Returns the columns that a schedule or a reader needs, and `held_out`.

    The table is read in parts, since a hundred million rows fit into memory once.
    """
    names = [*_PLACES, *_SIZES, *Stored._fields]
    with _opened_index(file) as index:
        rows = index.metadata.num_rows
        # While files are added, the card does not count their rows yet.
        growing = rows > samples and (file.parent / records.PROGRESS).is_dir()
        if rows != samples and not growing:
            found = f"{rows} rows, {records.CARD} says {samples}"
            raise _damaged(file, found)
        columns = {name: np.empty(samples, _kept_type(name)) for name in names}
        columns["held_out"] = np.zeros(samples, bool)
        has_split = "split" in index.schema_arrow.names  # format 2 has none
        names = [*names, "split"] if has_split else names
        start = 0
        for batch in index.iter_batches(_ROWS, columns=names, use_threads=True):
            batch = batch.slice(0, samples - start)
            _check_columns(file, batch, names)
            stop = start + batch.num_rows
            for name in [*_PLACES, *_SIZES, *Stored._fields]:
                columns[name][start:stop] = batch[name].to_numpy()
            if has_split:
                columns["held_out"][start:stop] = _is_eval(file, batch["split"])
            start = stop
    return columns


def _kept_type(column: str) -> Any:
    """Returns the type of a column in memory; counts of conditions are below 4."""
    small = column in Stored._fields
    # PyArrow's own translation, `to_pandas_dtype`, imports pandas in PyArrow 25.
    return np.int8 if small else pa.array([], _type(column)).to_numpy().dtype


def _is_eval(file: Path, split: pa.Array) -> np.ndarray:
    encoded: Any = split.dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), str)
    for name in names:
        if name not in (TRAIN, EVAL):
            raise _damaged(file, f"split {name!r} is not {TRAIN} or {EVAL}")
    return (names == EVAL)[encoded.indices.to_numpy()]


def _check_shards(path: Path, shard: Int[np.ndarray, " n"]) -> None:
    """Raises UserError unless the folder lists the shards of the index."""
    used = np.zeros(int(shard.max(initial=-1)) + 1, bool)
    used[shard] = True
    # One listing: a look at each of many shards takes minutes in a bucket.
    there = set(os.listdir(path))
    for number in np.flatnonzero(used):
        if records.shard_name(int(number)) not in there:
            raise _missing(path / records.shard_name(int(number)))


def check_vae(dataset: Dataset, sha256: str) -> None:
    """Raises UserError unless the VAE with this hash made the dataset."""
    made_by = dataset.card["vae_sha256"]
    if made_by != sha256:
        raise UserError(
            f"{dataset.path}: was prepared with another VAE (SHA-256 {made_by[:12]}…,"
            f" this one is {sha256[:12]}…): train with the one in the dataset's"
            f" {records.VAE} folder, or prepare it again with this one"
        )


@contextlib.contextmanager
def _opened_index(file: Path) -> Iterator[pq.ParquetFile]:
    _require(file)
    try:
        with pq.ParquetFile(file) as index:
            yield index
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from None


def _read_index(file: Path, columns: list[str] | None) -> pa.Table:
    with _opened_index(file) as index:
        table = index.read(columns)
        names = [name for name in records.INDEX_SCHEMA.names if name != "split"]
        _check_columns(file, table, columns or names)
    return table


def _check_columns(
    file: Path, table: pa.Table | pa.RecordBatch, columns: list[str]
) -> None:
    for name in columns:
        if name not in table.schema.names:
            raise _damaged(file, f"no column {name!r}")
        if table[name].null_count or table[name].type != _type(name):
            raise _damaged(file, f"column {name!r} is not whole or not {_type(name)}")


def _type(column: str) -> pa.DataType:
    return records.INDEX_SCHEMA.field(column).type


def _read_empty_text(file: Path) -> Float[np.ndarray, "m e"]:
    _require(file)
    try:
        text = records.decode_record(file.read_bytes())["text"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(file, error) from None
    return text


def _is_finite(x: np.ndarray) -> bool:
    """Returns whether no number of a bfloat16 array is infinite or NaN."""
    return bool(((x.view(np.uint16) & _EXPONENT) != _EXPONENT).all())


def _require(file: Path) -> None:
    if not file.is_file():
        raise _missing(file)


def _missing(file: Path) -> UserError:
    return UserError(f"{file}: is missing; copy the whole dataset, or prepare it again")


def _damaged(file: Path, reason: object) -> UserError:
    first_line = str(reason).partition("\n")[0]
    return UserError(f"{file}: is damaged ({first_line}); prepare the dataset again")

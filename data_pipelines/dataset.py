"""A prepared dataset: its card and sizes in memory, its samples read on demand."""

import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Float, Int
from safetensors import SafetensorError

from data_pipelines import records
from soraxla.core.errors import UserError
from soraxla.packing.conditioning import Stored
from soraxla.packing.schedule_index import ScheduleIndex

_OTHER_FILES = 256  # open files other than shards
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A prepared dataset: the card and the sizes in memory, latents read on demand."""

    path: Path
    card: dict[str, Any]  # dataset.json
    sizes: ScheduleIndex
    shard: Int[np.ndarray, " n"]
    record: Int[np.ndarray, " n"]
    empty_text: Float[np.ndarray, "m e"]
    rows: Int[np.ndarray, " n"] | None = None  # of the index; None is all of them
    _readers: dict[int, ArrayRecordReader] = field(default_factory=dict, repr=False)

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
            rows=samples if self.rows is None else self.rows[samples],
        )

    def _index_rows(self, columns: list[str] | None) -> pa.Table:
        table = _read_index(self.path / records.INDEX, columns)
        return table if self.rows is None else table.take(self.rows)

    def read(self, i: int) -> Record:
        """Reads sample i.

        Raises:
            UserError: the record is damaged or differs from the index.
        """
        file = self.path / records.shard_name(int(self.shard[i]))
        try:
            data = self._reader(int(self.shard[i])).read([int(self.record[i])])[0]
            tensors = records.decode_record(data)
            shapes = tensors["latents"].shape, tensors["text"].shape
        except (RuntimeError, SafetensorError, KeyError, ValueError) as error:
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

    def _reader(self, shard: int) -> ArrayRecordReader:
        """Returns the reader of a shard, which several threads may share."""
        if (reader := self._readers.get(shard)) is None:
            # Reads are in random order, so reading ahead in the file is waste.
            file = str(self.path / records.shard_name(shard))
            reader = ArrayRecordReader(file, "readahead_buffer_size:0")
        return self._readers.setdefault(shard, reader)


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
    table = _read_index(path / records.INDEX, [*_PLACES, *_SIZES, *Stored._fields])
    if table.num_rows != card["samples"]:
        raise _damaged(
            path / records.INDEX,
            f"{table.num_rows} rows, {records.CARD} says {card['samples']}",
        )
    column = {name: table[name].to_numpy() for name in table.column_names}
    shards = np.unique(column["shard"])
    _allow_open(path, len(shards) + _OTHER_FILES)
    for shard in shards:
        _require(path / records.shard_name(int(shard)))
    empty_text = _read_empty_text(path / records.EMPTY_TEXT)
    return Dataset(
        path=path,
        card=card,
        sizes=ScheduleIndex(
            **{name: column[name] for name in _SIZES},
            empty_text_length=len(empty_text),
            patch=tuple(card["patch"]),
            stored=Stored(*(column[name] for name in Stored._fields))
            if card["conditions"]
            else None,
        ),
        shard=column["shard"],
        record=column["record"],
        empty_text=empty_text,
    )


def _allow_open(path: Path, files: int) -> None:
    """Raises this process's limit of open files, or UserError if it cannot."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= files or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < files:
        raise UserError(
            f"{path}: needs {files} open files, of which {hard} are allowed here; "
            "allow more (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def check_vae(dataset: Dataset, sha256: str) -> None:
    """Raises UserError unless the VAE with this hash made the dataset."""
    made_by = dataset.card["vae_sha256"]
    if made_by != sha256:
        raise UserError(
            f"{dataset.path}: was prepared with another VAE (SHA-256 {made_by[:12]}…,"
            f" this one is {sha256[:12]}…): train with the one in the dataset's"
            f" {records.VAE} folder, or prepare it again with this one"
        )


def _read_index(file: Path, columns: list[str] | None) -> pa.Table:
    _require(file)
    try:
        table = pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from None
    for name in columns or records.INDEX_SCHEMA.names:
        if name not in table.column_names:
            raise _damaged(file, f"no column {name!r}")
        if table[name].null_count or table[name].type != _type(name):
            raise _damaged(file, f"column {name!r} is not whole or not {_type(name)}")
    return table


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
        raise UserError(
            f"{file}: is missing; copy the whole dataset, or prepare it again"
        )


def _damaged(file: Path, reason: object) -> UserError:
    first_line = str(reason).partition("\n")[0]
    return UserError(f"{file}: is damaged ({first_line}); prepare the dataset again")

"""A prepared dataset: its card and sizes in memory, its samples read on demand."""

import resource
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
_PLACES = ("shard", "record")
_SIZES = ("t", "h", "w", "fps", "text_length", "height", "width")


STEERING = ("actions", "camera")


class Record(NamedTuple):
    """A sample's tensors, in float32."""

    latents: Float[np.ndarray, "t h w c"]
    text: Float[np.ndarray, "m e"]
    conditions: dict[str, np.ndarray]  # of `encode_conditions`
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
            if self.shard[i] not in self._readers:
                # Reads are in random order, so reading ahead in the file is waste.
                self._readers[int(self.shard[i])] = ArrayRecordReader(
                    str(file), "readahead_buffer_size:0"
                )
            data = self._readers[int(self.shard[i])].read([int(self.record[i])])[0]
            tensors = {
                name: tensor.astype(np.float32)
                for name, tensor in records.decode_record(data).items()
            }
            latents, text = tensors.pop("latents"), tensors.pop("text")
        except (RuntimeError, SafetensorError, KeyError, ValueError) as error:
            raise _damaged(file, f"record {self.record[i]}: {error}") from None
        sizes = self.sizes
        grid = (sizes.t[i], sizes.h[i], sizes.w[i], self.card["latent_channels"])
        length = (sizes.text_length[i], self.card["text_width"])
        if latents.shape != grid or text.shape != length:
            raise _damaged(
                file,
                f"record {self.record[i]}: holds {latents.shape} and {text.shape}, the"
                f" index says {tuple(map(int, grid))} and {tuple(map(int, length))}",
            )
        for name, tensor in (("latents", latents), ("text", text), *tensors.items()):
            if not np.isfinite(tensor).all():
                reason = f"record {self.record[i]}: {name} are not finite"
                raise _damaged(file, reason)
        steering = {k: tensors.pop(k) for k in STEERING if k in tensors}
        return Record(latents, text, tensors, steering)


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
    return text.astype(np.float32)


def _require(file: Path) -> None:
    if not file.is_file():
        raise UserError(
            f"{file}: is missing; copy the whole dataset, or prepare it again"
        )


def _damaged(file: Path, reason: object) -> UserError:
    first_line = str(reason).partition("\n")[0]
    return UserError(f"{file}: is damaged ({first_line}); prepare the dataset again")

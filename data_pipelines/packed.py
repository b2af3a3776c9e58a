"""A prepared dataset as an endless stream of packed batches.

The plan of `soraxla.planning` is the source; reading and packing hang behind it. Every
host computes the whole plan, which sees sizes only, and reads its own rows. The state
of the pipeline is the place in the plan, the same on all hosts: what a thread has read
ahead is not part of it, so a restored pipeline gives the very same batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader
from grain.experimental import ThreadPrefetchIterDataset
from jaxtyping import Float, Int
from safetensors import SafetensorError

from data_pipelines import records
from data_pipelines.conditions import lay
from soraxla.mixture import Stored
from soraxla.packing import PackSpec, Segment, pack
from soraxla.planning import (
    BEGINNING,
    Draw,
    Place,
    PlanIndex,
    PlannedRow,
    check_index,
    plan_steps,
)
from soraxla.types import PackedBatch

_PLACES = ("shard", "record")
_SIZES = ("t", "h", "w", "fps", "text_length", "height", "width")


class Record(NamedTuple):
    """A sample, float32."""

    latents: Float[np.ndarray, "t h w c"]
    text: Float[np.ndarray, "m e"]
    conditions: dict[str, np.ndarray]  # of `conditions.encode_conditions`


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A prepared dataset: the card and the sizes in memory, latents read on demand."""

    path: Path
    card: dict[str, Any]  # dataset.json
    plan: PlanIndex
    shard: Int[np.ndarray, " n"]
    record: Int[np.ndarray, " n"]
    empty_text: Float[np.ndarray, "m e"]
    _readers: dict[int, ArrayRecordReader] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.plan)

    @cached_property
    def index(self) -> pa.Table:
        """The whole index, captions and sources included; read when first asked for."""
        return _read_index(self.path / records.INDEX, None)

    def read(self, i: int) -> Record:
        """Sample i.

        Raises ValueError when the record is damaged or not what the index says.
        """
        file = self.path / records.shard_name(int(self.shard[i]))
        try:
            if self.shard[i] not in self._readers:
                # Records are read at random: reading ahead in the file is waste.
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
        plan = self.plan
        grid = (plan.t[i], plan.h[i], plan.w[i], self.card["latent_channels"])
        length = (plan.text_length[i], self.card["text_width"])
        if latents.shape != grid or text.shape != length:
            raise _damaged(
                file,
                f"record {self.record[i]}: holds {latents.shape} and {text.shape}, the"
                f" index says {tuple(map(int, grid))} and {tuple(map(int, length))}",
            )
        return Record(latents, text, tensors)


@runtime_checkable  # what the checks of types in tests need
class ShiftRule(Protocol):
    """α of a clip's time shift; `functools.partial(time_shift, "auto")` is one."""

    def __call__(self, *, height: int, width: int, latent_frames: int) -> float:
        """`height` and `width` in pixels, `latent_frames` as packed."""
        ...


def open_dataset(path: str | Path) -> Dataset:
    """Opens a folder written by `data_pipelines.prepare`.

    Raises FileNotFoundError when the folder or one of its files is missing, ValueError
    when one is damaged, of another format, or at odds with the others.
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
    for shard in np.unique(column["shard"]):
        _require(path / records.shard_name(int(shard)))
    empty_text = _read_empty_text(path / records.EMPTY_TEXT)
    return Dataset(
        path=path,
        card=card,
        plan=PlanIndex(
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


def check_vae(dataset: Dataset, sha256: str) -> None:
    """Raises ValueError unless the dataset was made by the VAE of this hash."""
    made_by = dataset.card["vae_sha256"]
    if made_by != sha256:
        raise ValueError(
            f"{dataset.path}: was prepared with another VAE (SHA-256 {made_by[:12]}…,"
            f" this one is {sha256[:12]}…): train with the dataset's own, in its"
            f" {records.VAE} folder, or prepare it again with this one"
        )


def packed_batches(
    dataset: Dataset,
    spec: PackSpec,
    *,
    seed: int,
    batch_rows: int,
    shift: ShiftRule,
    rope_fps: float = 16.0,
    prefetch: int = 2,
    host: int = 0,
    hosts: int = 1,
) -> grain.IterDataset[PackedBatch]:
    """Endless `PackedBatch`es of NumPy arrays, a host's B/hosts rows of each step.

    Latents and text are float32. A draw whose caption is dropped carries the empty
    caption; what a draw is given, by the mixture of `spec`, is known. Hosts' rows, one
    after the other, are the B rows that one host would get.

    Args:
      dataset: from `open_dataset`.
      spec: the budgets of a row.
      seed: of the order of samples and of dropped captions.
      batch_rows: B, of all hosts.
      shift: α of a clip from its pixel size and the latent frames kept.
      rope_fps: the frame rate positions are counted in; belongs to the model.
      prefetch: batches a thread reads ahead; 0 reads in the caller's thread.
      host: rows [host·B/hosts, (host+1)·B/hosts) are read.
      hosts: how many hosts share a step.

    Raises:
      ValueError: hosts do not divide B, a sample can never be packed (see
        `check_index`), or a record turns out to be damaged when it is read.
    """
    if batch_rows < 1 or prefetch < 0:
        raise ValueError(
            "batch_rows must be at least 1 and prefetch at least 0, got"
            f" {batch_rows} and {prefetch}"
        )
    if not 0 <= host < hosts:
        raise ValueError(f"host must be one of 0 … {hosts - 1}, got {host}")
    if batch_rows % hosts:
        nearest = hosts * max(1, round(batch_rows / hosts))
        raise ValueError(
            f"batch_rows is {batch_rows}, which {hosts} hosts cannot share evenly: set"
            f" batch_rows to {nearest}"
        )
    check_index(dataset.plan, spec)
    share = slice(host * batch_rows // hosts, (host + 1) * batch_rows // hosts)

    def read(rows: list[PlannedRow]) -> PackedBatch:
        return pack(
            [
                [_segment(dataset, shift, rope_fps, draw) for draw in row]
                for row in rows[share]
            ],
            spec,
        )

    steps = PlannedSteps(dataset.plan, spec, seed=seed, batch_rows=batch_rows)
    return ThreadPrefetchIterDataset(steps.map(read), prefetch_buffer_size=prefetch)


class PlannedSteps(grain.IterDataset[list[PlannedRow]]):
    """The steps of the plan, B rows each, without end.

    The state is the next place in the plan.
    """

    def __init__(
        self,
        index: PlanIndex,
        spec: PackSpec,
        *,
        seed: int,
        batch_rows: int,
    ):
        super().__init__()
        self._plan = partial(plan_steps, index, spec, seed=seed, batch_rows=batch_rows)

    def __iter__(self) -> grain.DatasetIterator[list[PlannedRow]]:
        return _PlannedStepIterator(self._plan)


class _PlannedStepIterator(grain.DatasetIterator[list[PlannedRow]]):
    def __init__(self, plan: partial):
        super().__init__()
        self._plan = plan
        self.set_state(BEGINNING._asdict())

    def __next__(self) -> list[PlannedRow]:
        self._place, rows = next(self._steps)
        return rows

    def get_state(self) -> dict[str, Any]:
        return self._place._asdict()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._place = Place(*(int(state[name]) for name in Place._fields))
        self._steps = self._plan(start=self._place)


def segments(dataset: Dataset, shift: ShiftRule, rope_fps: float) -> list[Segment]:
    """Every sample whole, with its caption; its number is its draw."""
    return [
        _segment(
            dataset, shift, rope_fps, Draw(i, i, 0, 0, int(dataset.plan.t[i]), True)
        )
        for i in range(len(dataset))
    ]


def _segment(
    dataset: Dataset, shift: ShiftRule, rope_fps: float, draw: Draw
) -> Segment:
    record, plan = dataset.read(draw.sample), dataset.plan
    tokens, places, known = lay(
        record.latents,
        record.conditions,
        draw,
        patch=plan.patch,
        fps=float(plan.fps[draw.sample]),
        rope_fps=rope_fps,
    )
    return Segment(
        tokens=tokens,
        positions=places,
        known=known,
        text=record.text if draw.caption_kept else dataset.empty_text,
        draw=draw.draw,
        shift=shift(
            height=int(plan.height[draw.sample]),
            width=int(plan.width[draw.sample]),
            latent_frames=draw.latent_frames,
        ),
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
        raise FileNotFoundError(
            f"{file}: is missing; copy the whole dataset, or prepare it again"
        )


def _damaged(file: Path, reason: object) -> ValueError:
    first_line = str(reason).partition("\n")[0]
    return ValueError(f"{file}: is damaged ({first_line}); prepare the dataset again")
